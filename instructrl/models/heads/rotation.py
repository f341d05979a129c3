"""Rotation as a head's outputs: a softmax over bins for each of the three Euler angles.

Shapes: B sequences, T steps, O outputs, M bins.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.actions import rotation_from_bins, rotation_in_bins
from instructrl.models.heads.bins import expected_near_peak, gaussian_bins, soft_cross_entropy


@dataclass(frozen=True)
class BinnedRotation:
    """A softmax over bins for each Euler angle; targets are circular Gaussians of `sigma` bins.

    Where the expert's angle jumps because an object looks the same after a turn, bins keep both values; a quaternion's
    mean lies between them.
    """

    bins: int
    sigma: float

    @property
    def size(self) -> int:
        """Number of outputs."""
        return 3 * self.bins

    def targets(self, quaternion: Float[Array, "B T 4"]) -> Float[Array, "B T 3 M"]:
        """Shares of the bins of each angle."""
        return gaussian_bins(rotation_in_bins(quaternion, self.bins), self.bins, sigma=self.sigma, circular=True)

    def loss(self, outputs: Float[Array, "B T O"], targets: Float[Array, "B T 3 M"]) -> Float[Array, "B T"]:
        """Cross-entropy, mean over the angles."""
        return jnp.mean(soft_cross_entropy(self.logits(outputs), targets), axis=-1)

    def decode(self, outputs: Float[Array, "B T O"]) -> Float[Array, "B T 4"]:
        """The canonical quaternion of the angles expected around their peaks."""
        angles = expected_near_peak(self.logits(outputs), sigma=self.sigma, circular=True)
        return rotation_from_bins(angles, self.bins)

    def logits(self, outputs: Float[Array, "B T O"]) -> Float[Array, "B T 3 M"]:
        """The outputs by angle."""
        return outputs.reshape(*outputs.shape[:-1], 3, self.bins)
