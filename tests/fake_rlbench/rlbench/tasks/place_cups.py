from rlbench.backend.task import Task


class PlaceCups(Task):
    """The expert believes that it succeeds; nobody ever does."""

    variations = 2
    gripper = (1.0, 0.0)

    def success(self) -> tuple[bool, bool]:
        return False, False
