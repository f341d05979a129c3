"""`Workers` without processes, for what maps one method over many arguments."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from instructrl.sim.vector.pool import Request, WorkerFailure, Workers


class InlinePool:
    """One environment in this process; a ConnectionError in it stands for a process that died twice.

    `calls` records the arguments; after `lasts` calls every process dies.
    """

    def __init__(self, env: Any, *, lasts: int | None = None) -> None:
        self._env, self._lasts, self.calls = env, lasts, list[tuple]()

    def __len__(self) -> int:
        return 1

    def __enter__(self) -> "InlinePool":
        return self

    def __exit__(self, *_: object) -> None:
        self._env.close()

    ask = Workers.ask

    def call(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        return {slot: next(self.map(name, [given]))[1] for slot, (name, given) in requests.items()}

    def map(self, method: str, arguments: Iterable[tuple]) -> Iterator[tuple[int, Any]]:
        for index, given in enumerate(arguments):
            asked = getattr(self._env, method)
            self.calls.append(given)
            try:
                if self._lasts is not None and len(self.calls) > self._lasts:
                    raise ConnectionError
                yield index, asked(*given) if callable(asked) else asked
            except ConnectionError:
                yield index, WorkerFailure("its process failed 2 times: it exited with code 7")
