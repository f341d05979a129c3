"""Time of an answer by the policy server, against the same agent in this process.

One client asks for actions of the quickstart agent (random parameters, which take as long), then `Agent.act` is asked
with the same observations. With several clients at once, an answer also waits for the others, and all of them are
compared with agents in this process that answer one after the other: `answers/s` is the ratio of the numbers of
answers. Both ratios are of wall time.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.cli.entry import compose
from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.inference.agent import Agent
from instructrl.inference.serving.policy_client import PolicyClient
from instructrl.training.distributed.platform import select_platform
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.parameters.load_agent import LoadedAgent
from instructrl.types import Observation
from tests.fixtures.rounds import alternate, ratio, wall
from tests.paths import ROOT

EPISODES, STEPS, CLIENTS = 3, 4, (1, 4, 16)
ASK = "reach the red ball"


def untrained() -> Agent:
    """An agent with random parameters."""
    config = compose("train", TrainConfig, ["experiment=quickstart", "task=reach_target"])
    select_platform(HardwareConfig("auto"))
    tokenizer = make_tokenizer(config.encoder)
    network = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(network, dummy_batch(config, tokenizer), seed=0)
    return Agent(LoadedAgent(config, tokenizer, params, 0, frozenset(ASK.split())))


@contextmanager
def server(folder: Path, clients: int) -> Iterator[str]:
    """Serve the agent in a process of its own; yields its address."""
    words = [f"run={folder}", "port=0", f"clients={clients}", "max_keyframes=8"]
    command = [sys.executable, "-m", "instructrl.inference.serve", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        serving = next(line for line in process.stdout if line.startswith("serving "))
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield serving.split(" at ")[1].partition(",")[0]
        finally:
            process.terminate()


def answers(actor: Agent | PolicyClient, seen: Observation) -> list[float]:
    """Seconds of each answer of some episodes."""
    seconds = []
    for _ in range(EPISODES):
        actor.reset()
        for _ in range(STEPS):
            began = time.perf_counter()
            actor.act(seen, ASK)
            seconds.append(time.perf_counter() - began)
    return seconds


def observation(agent: Agent) -> Observation:
    """A scene of noise."""
    shape = (len(agent.cameras), agent.image_size, agent.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    intrinsics, extrinsics = (np.tile(np.eye(size, dtype=np.float32), (shape[0], 1, 1)) for size in (3, 4))
    return Observation(images, np.zeros(len(agent.state), np.float32), intrinsics, extrinsics, ASK)


def measure(agent: Agent, folder: Path, clients: int) -> str:
    """A line of the table."""
    seen = observation(agent)
    local, remote = list[float](), list[float]()
    with server(folder, clients) as url, ThreadPoolExecutor(clients) as threads:
        connections = [PolicyClient(url) for _ in range(clients)]

        def ask_all() -> None:
            for found in threads.map(lambda client: answers(client, seen), connections):
                remote.extend(found)

        found = alternate({"act": lambda: local.extend(answers(agent, seen)), "serve": ask_all})
        for connection in connections:
            connection.close()
    local, remote = local[EPISODES * STEPS :], remote[clients * EPISODES * STEPS :]  # without the calls that compile
    (p50, p99), (r50, r99) = (1000 * np.percentile(one, [50, 99]) for one in (local, remote))
    here, there = wall(found["act"]), wall(found["serve"])
    numbers = f"{p50:>12.1f}{p99:>12.1f}{r50:>14.1f}{r99:>14.1f}"
    return f"{clients:>7}{numbers}{ratio(there, here):>27}{ratio(clients * here, there):>27}"


def main() -> None:
    agent = untrained()
    head = f"{'clients':>7}{'act p50 ms':>12}{'act p99 ms':>12}{'serve p50 ms':>14}{'serve p99 ms':>14}"
    print(f"{head}{'time of an answer':>27}{'answers/s':>27}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "agent"
        agent.save(folder)
        for clients in CLIENTS:
            print(measure(agent, folder, clients), flush=True)


if __name__ == "__main__":
    main()
