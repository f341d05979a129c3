from rlbench.backend.task import Task


class CloseJar(Task):
    """Grasp at the first point and release at the second; visiting the second one first ends the episode."""

    variations = 3
    gripper = (0.0, 1.0)
    stops_wrong = True
