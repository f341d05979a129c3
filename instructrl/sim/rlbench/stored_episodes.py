"""Demonstrations that RLBench's dataset generator stored, in the original layout and in PerAct's, and their scenes.

    TASK/variation<V>/variation_descriptions.pkl, TASK/variation<V>/episodes/episode<N>/
    TASK/all_variations/episodes/episode<N>/, with variation_descriptions.pkl and variation_number.pkl in it

Nothing in their pickles is imported or executed. A demonstration records the state of numpy's random numbers before its
scene was drawn. RLBench's also records how many placements were drawn until its planner accepted one; PerAct's fork
does not.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instructrl.errors import InputError
from instructrl.sim.env import EpisodeStart, StoredScenes
from instructrl.storage.pickles import safe_unpickler
from instructrl.storage.pickles.safe_pickle_types import InertObject

OBSERVATIONS = "rlbench.backend.observation"
ONE_ARM = (f"{OBSERVATIONS}.Observation", f"{OBSERVATIONS}.UnimanualObservation")  # the second is PerAct2's
TWO_ARMS = (f"{OBSERVATIONS}.BimanualObservation", f"{OBSERVATIONS}.UnimanualObservationData")
CLASSES = ("rlbench.demo.Demo", *ONE_ARM, *TWO_ARMS)
DEMONSTRATION = "low_dim_obs.pkl"
VARIATION_FOLDER = re.compile(r"variation(\d+)|all_variations")
_WORDS = 624  # 32-bit words of the state of numpy's Mersenne Twister
_MAX_PLACEMENTS = 200


@dataclass(frozen=True)
class EpisodeFolder:
    """Folder of an episode."""

    number: int
    variation: int  # from its folder; -1: recorded in the episode
    folder: Path


@dataclass(frozen=True)
class SceneState:
    """The random numbers and the placement that restore the scene of a demonstration."""

    random_state: tuple[Any, ...]  # for numpy.random.set_state
    placements: int | None  # number of the placement from 1; None: not recorded, the planner decides again


def find_episodes(folder: Path) -> list[EpisodeFolder]:
    """Find all episodes of a task, round-robin over variations; those of all_variations/ come first."""
    found = []
    for episode in folder.glob("*/episodes/episode*"):
        variation = VARIATION_FOLDER.fullmatch(episode.parent.parent.name)
        number = re.fullmatch(r"episode(\d+)", episode.name)
        if variation and number and episode.is_dir():
            found.append(EpisodeFolder(int(number[1]), int(variation[1] or -1), episode))
    return sorted(found, key=lambda one: (one.variation >= 0, one.number, one.variation, one.folder))


def load_pickle(path: Path) -> Any:
    """Read a pickle of a stored demonstration.

    Raises:
        InputError: it is missing, damaged, or contains anything but RLBench's objects.
    """
    return safe_unpickler.load(path, unknown="refuse", allowed=CLASSES)


def whole_number(value: Any) -> int | None:
    """The integer that a pickle holds, also as an array of one number; None if it holds something else."""
    number = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    return int(number) if whole and not isinstance(number, bool) else None


def stored_scenes(folder: Path, task: str) -> StoredScenes:
    """The scenes of a task's demonstrations in `folder`, that of the task or its parent, in the order of their numbers.

    Copies in variation folders beside all_variations/ are left out.

    Raises:
        InputError: there are none, or one cannot be restored.
    """
    folder = folder.resolve()
    episodes = find_episodes(folder / task) or (find_episodes(folder) if folder.name == task else [])
    if not episodes:
        raise InputError(
            f"protocol.scenes: found no {task}/all_variations/episodes/episode<N> and no "
            f"{task}/variation<N>/episodes/episode<N> in {folder}; give the folder with RLBench's stored demonstrations"
        )
    shared = [episode for episode in episodes if episode.variation < 0]
    digest, starts = hashlib.sha256(), []
    for episode in shared or episodes:
        state, variation = scene_state(episode.folder), _variation(episode)
        digest.update(repr((variation, episode.number, state.placements)).encode() + state.random_state[1].tobytes())
        starts.append(EpisodeStart(variation, episode.number, stored=str(episode.folder)))
    return StoredScenes(tuple(starts), digest.hexdigest()[:16])


def scene_state(episode: Path) -> SceneState:
    """The state that restores the scene of the demonstration in this folder.

    Raises:
        InputError: the file is missing, damaged, or does not record it.
    """
    path = episode / DEMONSTRATION
    demo = load_pickle(path)
    state = demo.state if isinstance(demo, InertObject) else None
    fields: dict[Any, Any] = state if isinstance(state, dict) else {}
    random_state = fields.get("random_seed")
    if random_state is None or not _is_random_state(random_state):
        found = "no random_seed" if random_state is None else "a random_seed of another form"
        raise InputError(
            f"{path}: found {found}; allowed: the state of numpy's random numbers, which RLBench's dataset generator "
            "stores, and from which it restores a scene; use demonstrations as it wrote them"
        )
    attempts = fields.get("num_reset_attempts")
    placements = None if attempts is None else whole_number(attempts)
    if attempts is not None and not 1 <= (placements or 0) <= _MAX_PLACEMENTS:
        raise InputError(f"{path}: num_reset_attempts: found {attempts!r}; allowed: 1 to {_MAX_PLACEMENTS}")
    return SceneState(tuple(random_state), placements)


def _is_random_state(value: Any) -> bool:
    """Return True for what numpy.random.get_state() gives."""
    if not (isinstance(value, tuple) and len(value) == 5 and value[0] == "MT19937"):
        return False
    _, words, place, has_gauss, gauss = value
    numbers = isinstance(words, np.ndarray) and words.dtype == np.uint32 and words.shape == (_WORDS,)
    return bool(
        numbers
        and type(place) is int
        and 0 <= place <= _WORDS
        and has_gauss in (0, 1)
        and isinstance(gauss, float)
        and np.isfinite(gauss)
    )


def _variation(episode: EpisodeFolder) -> int:
    if episode.variation >= 0:
        return episode.variation
    path = episode.folder / "variation_number.pkl"
    number = whole_number(load_pickle(path))
    if number is None or number < 0:
        raise InputError(f"{path}: found {number}, expected the number of a variation, 0 or more")
    return number
