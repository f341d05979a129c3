import os

sim_intparam_program_version = 1


def simGetInt32Parameter(parameter: int) -> int:  # noqa: N802
    assert parameter == sim_intparam_program_version
    return int(os.environ.get("FAKE_COPPELIASIM", "40100"))
