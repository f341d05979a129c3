"""Settings of each kind of action head. The heads themselves, which need jax, are in models/heads."""

from dataclasses import dataclass
from typing import ClassVar

from instructrl.config.fields import number
from instructrl.config.model import HeadConfig, PolicyConfig
from instructrl.types import DENSE


@dataclass
class SlotsConfig(HeadConfig):
    """Settings of heads that read patches through slots of attention."""

    slots: int = number(4, low=0, high=64, help="slots of attention over each camera's patches; 0: as in the paper")
    heatmap_weight: float = number(
        1.0, low=0, help="weight of the loss that has the first slot attend to the action's position"
    )

    @property
    def reads_patches(self) -> bool:
        """True if the head reads patch features."""
        return self.slots > 0

    @property
    def supervises_slots(self) -> bool:
        """True if camera matrices say where the first slot shall attend."""
        return self.slots > 0 and self.heatmap_weight > 0


@dataclass
class RegressionConfig(SlotsConfig):
    """Eight numbers from the prediction token and what its slots read."""

    implementation: ClassVar[str] = "instructrl.models.heads.regression:RegressionHead"

    position_weight: float = number(3.0, low=0, help="weight of the position loss")


@dataclass
class DiscreteConfig(SlotsConfig):
    """Bins of every axis of position and rotation, from the prediction token and what its slots read."""

    implementation: ClassVar[str] = "instructrl.models.heads.discrete:DiscreteHead"

    position_weight: float = number(3.0, low=0, help="weight of the position loss")
    position_bins: int = number(100, low=2, high=1000, help="position bins along each workspace axis")
    position_sigma: float = number(
        2.0, above=0, high=100, help="standard deviation of the position's target shares, in bins"
    )
    rotation_bins: int = number(72, low=4, high=720, help="bins of each Euler angle over a full turn")
    rotation_sigma: float = number(
        1.0, above=0, high=100, help="standard deviation of the rotation's target shares, in bins"
    )


@dataclass
class SpatialConfig(HeadConfig):
    """A heatmap over each camera's patches, lifted to one point by the camera matrices."""

    implementation: ClassVar[str] = "instructrl.models.heads.spatial:SpatialHead"
    reads_cameras: ClassVar[bool] = True
    has_heatmaps: ClassVar[bool] = True

    heatmap_weight: float = number(1.0, low=0, help="weight of the patch classification loss")
    offset_weight: float = number(1.0, low=0, help="weight of the within-patch offset loss")
    rotation_weight: float = number(0.5, low=0, help="weight of the rotation loss")
    rotation_bins: int = number(72, low=4, high=720, help="bins of each Euler angle over a full turn")
    rotation_sigma: float = number(
        1.0, above=0, high=100, help="standard deviation of the rotation's target shares, in bins"
    )

    @property
    def reads_patches(self) -> bool:
        """True: the heatmaps are over patches."""
        return True


@dataclass
class ChunkConfig(SlotsConfig):
    """The next dense actions at once, each as the regression head predicts one; the first slot attends to the last."""

    implementation: ClassVar[str] = "instructrl.models.heads.chunk:ChunkHead"
    actions: ClassVar[str] = DENSE

    chunk: int = number(16, low=1, high=256, help="dense actions that are predicted at once")
    execute: int = number(8, low=1, high=256, help="how many of them are executed before others are predicted")
    position_weight: float = number(3.0, low=0, help="weight of the position loss")


@dataclass
class FlowConfig(ChunkConfig):
    """The next dense actions at once, as a sample of their distribution: noise that flows to them."""

    implementation: ClassVar[str] = "instructrl.models.heads.flow:FlowHead"
    draws_noise: ClassVar[bool] = True

    rotation_weight: float = number(3.0, low=0, help="weight of the rotation loss")
    steps: int = number(10, low=1, high=1000, help="Euler steps from noise to actions")


def chunk_size(head: HeadConfig) -> int | None:
    """The number of actions that a head predicts at once; None for a head of keyframes."""
    return head.chunk if isinstance(head, ChunkConfig) else None


def history_window(head: HeadConfig, policy: PolicyConfig) -> int | None:
    """The number of steps that the policy is given, since episodes of dense actions are long; None: all so far."""
    return policy.window if isinstance(head, ChunkConfig) else None
