"""The observations that an agent takes, and their check: a wrong one is refused before it enters an episode."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.plausibility import check_observation
from instructrl.types import Observation


@dataclass(frozen=True)
class ObservationFormat:
    """Cameras, images and state of an agent's observations.

    Attributes:
        cameras: the cameras whose images it expects, in this order.
        image_size: side length of each image in pixels.
        state: names of the state's numbers, with units.
        matrices: True if it needs the cameras' matrices; else they may be left out of a mapping.
    """

    cameras: tuple[str, ...]
    image_size: int
    state: tuple[str, ...]
    matrices: bool

    @classmethod
    def of_run(cls, config: TrainConfig) -> Self:
        """The format of a run's agent."""
        return cls(tuple(config.sim.cameras), config.sim.image_size, tuple(config.sim.state), config.head.reads_cameras)

    def read(self, observation: Observation | Mapping[str, Any], instruction: str) -> Observation:
        """An observation as checked arrays, with an instruction.

        Args:
            observation: an `Observation`, or a mapping that has for each camera `NAME_rgb` uint8 [H W 3],
                `NAME_intrinsics` [3 3] and `NAME_extrinsics` [4 4] (camera to world, metres), and `state`.
            instruction: of the episode.

        Raises:
            InputError: an entry is missing, an array has a wrong shape or type, or numbers that no scene has.
        """
        found = observation if isinstance(observation, Observation) else self._from_arrays(observation)
        return check_observation(
            found._replace(instruction=instruction),
            views=len(self.cameras),
            size=self.image_size,
            state=len(self.state),
            form_hint=f": this agent uses the cameras {', '.join(self.cameras)} with images of {self.image_size} "
            "pixels",
            value_hint="; look at what reads the robot or the cameras. The observation was not taken into the "
            "episode's history",
        )

    def _from_arrays(self, observation: Mapping[str, Any]) -> Observation:
        """Build an observation from a mapping of arrays by camera."""
        parts = ("rgb", "intrinsics", "extrinsics")
        if not self.matrices and not any(
            f"{name}_{part}" in observation for name in self.cameras for part in parts[1:]
        ):
            observation = {**self._any_matrices(), **observation}
        for key in (*(f"{name}_{part}" for part in parts for name in self.cameras), "state"):
            if key not in observation:
                raise InputError(
                    f"observation: found no {key}, only {', '.join(map(str, observation))}; this agent uses "
                    f"the cameras {', '.join(self.cameras)}"
                )
        arrays = [[_array(observation, f"{name}_{part}") for name in self.cameras] for part in parts]
        for name, image in zip(self.cameras, arrays[0], strict=True):
            if image.shape != (self.image_size, self.image_size, 3):
                raise InputError(
                    f"observation: found {name}_rgb of shape {image.shape}, expected "
                    f"{(self.image_size, self.image_size, 3)}, as in this agent's training"
                )
        try:
            images, intrinsics, extrinsics = map(np.stack, arrays)
        except ValueError:
            raise InputError(
                "observation: the camera matrices have different shapes; expected [3 3] and [4 4]"
            ) from None
        return Observation(images, _array(observation, "state"), intrinsics, extrinsics, "")

    def _any_matrices(self) -> dict[str, np.ndarray]:
        """Matrices for an agent that does not look at them."""
        sizes = {"intrinsics": 3, "extrinsics": 4}
        return {f"{name}_{part}": np.eye(size) for name in self.cameras for part, size in sizes.items()}


def _array(observation: Mapping[str, Any], key: str) -> np.ndarray:
    try:
        return np.asarray(observation[key])
    except ValueError:  # nested lists of unequal lengths
        raise InputError(f"observation: found {key} as lists of unequal lengths, expected an array") from None
