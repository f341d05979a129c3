"""Answers the questions of many clients in as few calls of the agent as possible."""

import asyncio
from dataclasses import dataclass

import numpy as np

from instructrl.actions import check_action
from instructrl.errors import InputError
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.types import ACTION_SIZES, Observation


@dataclass(frozen=True)
class Question:
    """An observation that waits for its action."""

    slot: int
    observation: Observation  # with the episode's instruction
    first: bool  # of its episode
    answer: "asyncio.Future[np.ndarray]"


class Batcher:
    """Answers all questions that wait in one call of the agent, in a thread, while others arrive."""

    def __init__(self, agent: BatchedAgent) -> None:
        """Prepare to answer for an agent, of which nobody else makes use, within a running event loop."""
        self._agent = agent
        self._waiting: list[Question] = []
        self._arrived = asyncio.Event()

    async def ask(self, slot: int, observation: Observation, *, first: bool) -> np.ndarray:
        """The action, float32[8], for an observation of the slot's episode; one question of a slot at a time.

        Raises:
            InputError: the instruction is refused, or the policy's answer is not finite.
        """
        question = Question(slot, observation, first, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        self._arrived.set()
        return await question.answer

    async def run(self) -> None:
        """Answer until cancelled; what is not answered then is cancelled, too."""
        batch: list[Question] = []
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                batch, self._waiting = self._waiting, []
                answers = await asyncio.to_thread(self._answers, batch)
                for question in batch:
                    answer = answers[question.slot]
                    if question.answer.done():  # cancelled
                        continue
                    if isinstance(answer, InputError):
                        question.answer.set_exception(answer)
                    else:
                        question.answer.set_result(answer)
        finally:
            for question in (*batch, *self._waiting):
                question.answer.cancel()

    def _answers(self, batch: list[Question]) -> dict[int, np.ndarray | InputError]:
        """The answer of each slot."""
        answers: dict[int, np.ndarray | InputError] = {}
        for question in batch:
            if question.first:
                try:
                    self._agent.start_episode(question.slot, question.observation.instruction)
                except InputError as error:
                    answers[question.slot] = error
        able = {question.slot: question.observation for question in batch if question.slot not in answers}
        for slot, action in (self._agent.act(able) if able else {}).items():
            try:
                check_action(action, sizes=ACTION_SIZES)  # not finite if the policy diverged in training
                answers[slot] = action
            except InputError as error:
                answers[slot] = error
        return answers
