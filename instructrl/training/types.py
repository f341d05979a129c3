"""Types of parameters and metrics that the modules of training share."""

from jaxtyping import Array, Float, PyTree

Params = dict[str, PyTree]  # nested dicts with arrays as leaves, or what stands for them: shapes, shardings, marks
StepMetrics = dict[str, Float[Array, ""]]  # of a step, on the device
