"""Settings of each kind of action head. The heads themselves, which need jax, are in models/heads."""

from dataclasses import dataclass
from typing import ClassVar

from instructrl.config.fields import number
from instructrl.config.model import HeadConfig


@dataclass
class RegressionConfig(HeadConfig):
    """Eight numbers from the prediction token alone."""

    implementation: ClassVar[str] = "instructrl.models.heads.regression:RegressionHead"

    position_weight: float = number(3.0, low=0, help="weight of the position loss")


@dataclass
class DiscreteConfig(HeadConfig):
    """Bins of every axis of position and rotation, from the prediction token alone."""

    implementation: ClassVar[str] = "instructrl.models.heads.discrete:DiscreteHead"

    position_weight: float = number(3.0, low=0, help="weight of the position loss")
    position_bins: int = number(100, low=2, high=1000, help="position bins along each workspace axis")
    rotation_bins: int = number(72, low=4, high=720, help="bins of each Euler angle over a full turn")


@dataclass
class SpatialConfig(HeadConfig):
    """A heatmap over each camera's patches, lifted to one point by the camera matrices."""

    implementation: ClassVar[str] = "instructrl.models.heads.spatial:SpatialHead"
    reads_patches: ClassVar[bool] = True
    reads_cameras: ClassVar[bool] = True

    heatmap_weight: float = number(1.0, low=0, help="weight of the patch classification loss")
    offset_weight: float = number(1.0, low=0, help="weight of the within-patch offset loss")
