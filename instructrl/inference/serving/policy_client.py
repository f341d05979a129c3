"""Client of a policy server: acts like an `Agent`, and needs neither jax nor the agent's files.

    from instructrl.inference.serving.policy_client import PolicyClient

    with PolicyClient("ws://localhost:8000") as client:
        action = client.act(observation, "reach the red ball")

Any server of openpi's protocol that sends `actions` answers it; the names of the observation's arrays are ours.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from instructrl.errors import InputError, RunError, format_value, short_message, shorten
from instructrl.inference.serving.access_token import header
from instructrl.inference.serving.messages import pack, unpack
from instructrl.types import Observation

LARGEST_ANSWER = 2**20  # bytes
RETRY_INTERVAL = 0.5  # seconds
CLOSE_TIMEOUT = 2.0  # seconds in which the server shall answer that the connection ends
UNAUTHORIZED = 401


class ConnectionLostError(RunError):
    """The server, or the way to it, is gone; `PolicyClient.reset` connects again and begins a new episode."""


class PolicyClient:
    """A client of a policy server, in one episode at a time.

    Attributes:
        metadata: what the server says of its agent.
    """

    def __init__(self, url: str, *, token: str | None = None, wait: float = 0.0, timeout: float = 60.0) -> None:
        """Connect.

        Args:
            url: of the server, ws://HOST:PORT, or wss:// through a proxy that encrypts.
            token: that the server asks for; None: none.
            wait: seconds to wait for a server that is not there yet.
            timeout: seconds to wait for an answer.

        Raises:
            InputError: the address is none, or the server refuses the token.
            RunError: no server answers, or it has no place.
        """
        self._url, self._token, self._wait, self._timeout = url, token, wait, timeout
        self._connection: ClientConnection | None = None
        self._open = ExitStack()
        self.metadata: dict[str, Any] = {}
        self._connect()

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras whose images the agent expects."""
        return tuple(self.metadata["cameras"])

    @property
    def image_size(self) -> int:
        """Side length of each image in pixels."""
        return self.metadata["image_size"]

    def act(self, observation: Observation | Mapping[str, Any], instruction: str) -> np.ndarray:
        """The next keyframe action, float32 [8]; arguments and action are those of `Agent.act`.

        Raises:
            InputError: the server refuses the observation, of which it says why; the episode goes on without it.
            ConnectionLostError: the server is gone, or does not answer in time.
        """
        arrays = by_camera(observation, self.cameras) if isinstance(observation, Observation) else observation
        answer = self._ask({**arrays, "instruction": instruction})
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not len(actions):
            raise RunError(f"{self._url}: found an answer without actions; it is no server of this protocol")
        return np.array(actions[0])

    def reset(self) -> None:
        """Begin a new episode, over a new connection if the last one was lost.

        Raises:
            RunError: no server answers, or it has no place.
        """
        if self._connection is None:
            self._connect()
        else:
            self._ask({"reset": True})

    def close(self) -> None:
        """End the connection, which frees its place at the server."""
        self._connection = None
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        deadline = time.monotonic() + self._wait
        while True:
            try:
                self._connection = self._opened()
                break
            except (OSError, EOFError, InvalidHandshake) as error:  # also while a server starts behind a proxy
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{self._url}: no policy server answers ({short_message(error)}); start one with python -m "
                        "instructrl.inference.serve, and see its host= and port="
                    ) from None
                time.sleep(RETRY_INTERVAL)
        self.metadata = self._read(self._receive())
        if not {"cameras", "image_size"} <= self.metadata.keys():
            self.close()
            raise RunError(f"{self._url}: found a server whose metadata name no cameras; it serves another agent")

    def _opened(self) -> ClientConnection:
        try:
            request = connect(
                self._url,
                additional_headers=header(self._token) if self._token else None,
                compression=None,
                proxy=None,
                max_size=LARGEST_ANSWER,
                open_timeout=self._timeout,
                close_timeout=CLOSE_TIMEOUT,
            )
            return self._open.enter_context(request)
        except (InvalidURI, ValueError):
            raise InputError(f"url: found {format_value(self._url)}; allowed: ws://HOST:PORT or wss://HOST") from None
        except InvalidStatus as error:
            if error.response.status_code != UNAUTHORIZED:
                raise
            found = "one that the server refuses" if self._token else "none, which the server refuses"
            raise InputError(
                f"token: found {found}; give that of the server, as token_file= or INSTRUCTRL_TOKEN"
            ) from None

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        data, limit = pack(message), self.metadata.get("max_message_bytes")
        if isinstance(limit, int) and len(data) > limit:
            raise InputError(f"observation: found {len(data)} bytes; the server takes at most {limit}; send less")
        if self._connection is None:
            raise ConnectionLostError(f"{self._url}: not connected; reset() connects again and begins a new episode")
        try:
            self._connection.send(data)
        except ConnectionClosed as closed:
            raise self._lost(reason(closed)) from None
        return self._read(self._receive())

    def _receive(self) -> bytes | str:
        assert self._connection is not None
        try:
            return self._connection.recv(timeout=self._timeout)
        except ConnectionClosed as closed:
            raise self._lost(reason(closed)) from None
        except TimeoutError:
            raise self._lost(f"no answer within {self._timeout:g} seconds") from None

    def _read(self, answer: bytes | str) -> dict[str, Any]:
        if isinstance(answer, str):
            raise InputError(answer)
        try:
            return unpack(answer)
        except InputError as error:
            raise RunError(f"{self._url}: {error}; it is no server of this protocol") from None

    def _lost(self, why: str) -> ConnectionLostError:
        self.close()
        return ConnectionLostError(
            f"{self._url}: the connection was lost ({why}); reset() connects again and begins a new episode"
        )


def by_camera(observation: Observation, cameras: tuple[str, ...]) -> dict[str, Any]:
    """The arrays of an observation by names, as `Agent.act` and a policy server take them."""
    parts = {"rgb": observation.images, "intrinsics": observation.intrinsics, "extrinsics": observation.extrinsics}
    named = {f"{name}_{part}": views[index] for part, views in parts.items() for index, name in enumerate(cameras)}
    return {**named, "state": observation.state}


def reason(closed: ConnectionClosed) -> str:
    """The reason that the other side gave for ending a connection."""
    said = closed.rcvd.reason if closed.rcvd is not None else ""
    return shorten(" ".join(said.split()), 200) or "without a reason"
