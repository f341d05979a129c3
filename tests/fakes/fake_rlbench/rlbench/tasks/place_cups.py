from rlbench.backend.task import Task


class PlaceCups(Task):
    """A task whose expert reports success but which never succeeds."""

    variations = 2
    gripper = (1.0, 0.0)
    hopeless = True

    def success(self) -> tuple[bool, bool]:
        return False, False
