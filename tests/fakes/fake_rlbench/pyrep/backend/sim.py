sim_intparam_program_version = 1


def simGetInt32Parameter(parameter: int) -> int:  # noqa: N802
    raise TypeError("simGetInt32Parameter() expected 2 arguments, got 1")  # PyRep's wrapper passes one of two
