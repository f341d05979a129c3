from rlbench.backend.task import Task


class ReachTarget(Task):
    variations = 4
