"""Code that simulators share: the recording of their experts' actions."""

import numpy as np

from instructrl.sim import Step, replay
from tests.fixtures.observations import blank_observation


def test_a_simulator_may_write_all_observations_into_the_same_arrays() -> None:
    seen = blank_observation(4, state=2, instruction="go")

    def step(action: np.ndarray) -> Step:
        for array in seen[:4]:
            array[...] = action[0]
        return Step(seen, None)

    actions = np.arange(1, 4, dtype=np.float32)[:, None].repeat(8, axis=1)
    made, _ = replay(seen, step, actions, instructions=("go",), variation=0, seed=0)
    for array in (made.images, made.state, made.intrinsics, made.extrinsics):
        assert [frame.max() for frame in array[1:]] == [1, 2, 3] and array[0].max() < 2
    assert made.state[0].max() == made.images[0].max() == 0
