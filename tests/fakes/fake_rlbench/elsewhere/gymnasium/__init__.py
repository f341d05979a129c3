"""Empty stand-in: RLBench imports this function from it."""


def register(**_: object) -> None: ...
