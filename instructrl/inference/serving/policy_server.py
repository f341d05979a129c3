"""Policy server: many clients, each in an episode of its own, ask one agent for actions over websockets.

A client is sent the metadata first, and then one message for each that it sends: the action, or an error as text, after
which it may go on. Observations that wait are answered in one policy call. The protocol is that of openpi's client.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import Any

import numpy as np
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from instructrl import __version__
from instructrl.errors import InputError, format_value, shorten
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.inference.observation_format import ObservationFormat
from instructrl.inference.serving.access_token import HEADER, admits
from instructrl.inference.serving.batcher import Batcher
from instructrl.inference.serving.messages import pack, unpack
from instructrl.training.parameters.load_agent import LoadedAgent
from instructrl.types import COLLISIONS, Observation

HEALTH = "/healthz"
PROTOCOL = 1  # raised with every change that a client must know of
ACTION = (
    "x (m)", "y (m)", "z (m)", "quaternion x", "quaternion y", "quaternion z", "quaternion w", "gripper open"
)  # fmt: skip
FRAME_BYTES = 2**20  # of a message, for all but its images
LONGEST_ERROR = 1000  # characters
CLOSE_TIMEOUT = 2.0  # seconds in which a client shall answer that the connection ends


@dataclass
class Session:
    """A client's slot, and the instruction of its episode: None before the first observation."""

    slot: int
    instruction: str | None = None
    actions: int = 0


class PolicyServer:
    """Serves an agent to as many clients at once as it has slots."""

    def __init__(
        self,
        trained: LoadedAgent,
        *,
        clients: int,
        max_keyframes: int,
        token: str | None = None,
        strict: bool = False,
        report: Callable[[str], None] = print,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Prepare an agent, and compile it.

        Args:
            trained: its settings and parameters.
            clients: the number of clients at once; each policy call computes as many episodes.
            max_keyframes: the largest number of keyframes of an episode.
            token: that a client must show; None: none.
            strict: refuse instructions with words that no instruction of the training had.
            report: takes a line on each client that comes or goes.
            warn: takes a line on each instruction with such words.
        """
        self._format = ObservationFormat.of_run(trained.config)
        self._agent = BatchedAgent.from_trained(trained, slots=clients, steps=max_keyframes, strict=strict, report=warn)
        self._token, self._report = token, report
        self._free = list(range(clients))[::-1]
        pixels = len(self._format.cameras) * self._format.image_size**2 * 3
        self._largest_message = FRAME_BYTES + 4 * pixels
        self.metadata = {**metadata(trained, max_keyframes), "max_message_bytes": self._largest_message}
        self._compile()

    async def run(self, listener: socket.socket, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve on a bound socket until `stop` is set; `ready` is called when it is open."""
        self._batcher = Batcher(self._agent)
        answering, stopping = asyncio.create_task(self._batcher.run()), asyncio.create_task(stop.wait())
        try:
            async with serve(
                self._converse,
                sock=listener,
                process_request=self._admit,
                origins=[None],  # no page in a browser
                compression=None,
                max_size=self._largest_message,
                max_queue=2,
                close_timeout=CLOSE_TIMEOUT,
            ) as server:
                ready()
                await asyncio.wait([answering, stopping], return_when=asyncio.FIRST_COMPLETED)
                server.close(code=CloseCode.GOING_AWAY, reason="the server was stopped")
            if answering.done():  # a fault of the program or of the device
                await answering
        finally:
            answering.cancel()
            stopping.cancel()

    def _compile(self) -> None:
        """Act once, on a blank observation."""
        views, size = len(self._format.cameras), self._format.image_size
        blank = Observation(
            np.zeros((views, size, size, 3), np.uint8),
            np.zeros(len(self._format.state), np.float32),
            np.broadcast_to(np.eye(3, dtype=np.float32), (views, 3, 3)),
            np.broadcast_to(np.eye(4, dtype=np.float32), (views, 4, 4)),
            "",
        )
        self._agent.act({0: blank})

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no websocket: the health check, and requests without the token."""
        if request.path == HEALTH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not admits(self._token, request.headers.get_all(HEADER)):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "token: missing or wrong\n")
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        """Serve one client, in a slot of its own."""
        clients, name = self._agent.slots, "{}:{}".format(*connection.remote_address[:2])
        if not self._free:
            reason = f"all places are taken ({clients}); try again later, or serve more with clients="
            return await connection.close(CloseCode.TRY_AGAIN_LATER, reason)
        session = Session(self._free.pop())
        self._report(f"client {name} came, {clients - len(self._free)} of {clients}")
        try:
            await connection.send(pack(self.metadata))
            async for message in connection:
                await connection.send(await self._reply(session, message))
        except ConnectionClosed:
            pass
        finally:
            self._free.append(session.slot)
            self._report(
                f"client {name} left after {session.actions} actions, {clients - len(self._free)} of {clients}"
            )
        return None

    async def _reply(self, session: Session, message: bytes | str) -> bytes | str:
        """The answer to a message: bytes, or the text of an error in one line."""
        began = perf_counter()
        try:
            answer = await self._answer(session, message)
        except InputError as error:
            return shorten(" ".join(str(error).split()), LONGEST_ERROR)
        return pack({**answer, "server_timing": {"infer_ms": 1000 * (perf_counter() - began)}})

    async def _answer(self, session: Session, message: bytes | str) -> dict[str, Any]:
        if isinstance(message, str):
            raise InputError("message: found a text; allowed: bytes, a map in MessagePack")
        found = unpack(message)
        reset = found.pop("reset", False)
        if not isinstance(reset, bool):
            raise InputError(f"reset: found {format_value(reset)}; allowed: true, false")
        if reset:
            session.instruction = None
        if reset and not found:
            return {"reset": True}
        instruction = self._instruction(session, found)
        observation = self._format.read(found, instruction)
        first = session.instruction is None
        if not first and self._agent.is_full(session.slot):
            limit = self._agent.steps
            raise InputError(
                f"episode: found keyframe {limit + 1}; allowed: at most {limit}, unless max_keyframes= of the server "
                "is more; send reset"
            )
        action = await self._batcher.ask(session.slot, observation, first=first)
        session.instruction = instruction
        session.actions += 1
        return {"actions": action[None]}

    @staticmethod
    def _instruction(session: Session, found: dict[str, Any]) -> str:
        instruction = found.get("instruction")
        if not isinstance(instruction, str):
            kind = "none" if instruction is None else type(instruction).__name__
            raise InputError(f"instruction: found {kind}; allowed: a text, the same throughout an episode")
        if session.instruction not in (None, instruction):
            raise InputError(
                f"instruction: found {format_value(instruction)} in an episode with "
                f"{format_value(session.instruction)}; send reset before another episode"
            )
        return instruction


def metadata(trained: LoadedAgent, max_keyframes: int) -> dict[str, Any]:
    """The description of an agent that its clients are sent."""
    form, sim = ObservationFormat.of_run(trained.config), trained.config.sim
    return {
        "server": f"instructrl {__version__}",
        "protocol": PROTOCOL,
        "cameras": list(form.cameras),
        "image_size": form.image_size,
        "camera_matrices": form.matrices,  # needed in observations
        "state": list(form.state),
        "workspace": sim.bounds.numbers,  # metres: x y z of the lowest corner, then of the highest
        "action": [*ACTION, *["collisions ignored"] * (sim.actions == COLLISIONS)],  # in the world frame
        "actions": sim.actions,  # keyframe, keyframe_collisions or dense
        "max_keyframes": max_keyframes,
        "step": trained.step,
    }
