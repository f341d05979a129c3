import os

if os.environ.get("FAKE_RLBENCH_TASKS"):
    __path__ = [*__path__, os.environ["FAKE_RLBENCH_TASKS"]]
