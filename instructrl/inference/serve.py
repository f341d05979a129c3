"""Serve a trained agent to robots and simulators, over websockets.

python -m instructrl.inference.serve run=outputs/NAME
python -m instructrl.inference.serve run=outputs/NAME port=8001 clients=16 max_keyframes=30 hardware.platform=gpu

Each client is in an episode of its own; observations that wait are answered in one policy call. The agent is compiled
before the port opens. GET /healthz says whether it is open. SIGTERM or ctrl-C ends the server.
"""

import asyncio
import errno
import signal
import socket
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from instructrl.cli.help import tool_settings
from instructrl.cli.progress import stopwatch
from instructrl.config.fields import number, one_of, setting
from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError, report_user_errors, warn
from instructrl.inference.hub import SCHEME
from instructrl.inference.serving.access_token import VARIABLE, read_token
from instructrl.preemption import handle_signals
from instructrl.storage.object_store import SCHEMES

if TYPE_CHECKING:
    from instructrl.inference.serving.policy_server import PolicyServer

PROG = "python -m instructrl.inference.serve"
OTHER_ADDRESS = "choose another port= or host="


@dataclass
class DeviceConfig:
    """Device and precision of the agent."""

    platform: str = one_of("auto", "cpu", "gpu", "tpu", default="auto", help="jax platform; auto: jax's first choice")
    precision: str = one_of(
        "float32", "bfloat16", default="float32", help="dtype of computation; parameters stay float32"
    )


@dataclass
class ServeConfig:
    """Settings of the command."""

    run: str = setting(help="run directory or exported folder, local or gs://..., s3://... or hf://USER/NAME")
    host: str = setting("127.0.0.1", help="address to listen at; 0.0.0.0: every address of this machine")
    port: int = number(8000, low=0, high=65_535, help="port to listen at; 0: any that is free")
    clients: int = number(1, low=1, high=1024, help="clients at once; every policy call computes as many episodes")
    max_keyframes: int = number(16, low=1, high=1000, help="maximum keyframes of an episode")
    token_file: str | None = setting(
        None, help=f"file of a token that clients must show; null: that in {VARIABLE}, if it is set"
    )
    checkpoint: str = one_of("best", "last", default="best", help="checkpoint of the run")
    strict: bool = setting(False, help="refuse instructions with words that no instruction of the training had")
    hardware: DeviceConfig = field(default_factory=DeviceConfig)


def bound_socket(host: str, port: int, *, remedy: str = OTHER_ADDRESS) -> socket.socket:
    """A socket at an address, which does not listen yet; `remedy` ends the error of a port in use.

    Raises:
        InputError: there is no such address here, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"host: found {host} ({_said(error)}); allowed: an address of this machine") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise unavailable(host, port, error, remedy=remedy) from None
    return bound


def unavailable(host: str, port: int, error: OSError, *, remedy: str) -> InputError:
    """The error of a port that cannot be had."""
    return InputError(f"port: found {port} at {host} ({_said(error)}); {remedy}")


def prepare(config: ServeConfig, token: str | None) -> "PolicyServer":
    """Load and compile the agent.

    Raises:
        InputError: the run or its checkpoint does not exist, or a file is missing, damaged or changed.
    """
    if not config.run.startswith((SCHEME, *SCHEMES)) and not Path(config.run).is_dir():
        raise InputError(f"run: found no directory {config.run}; pass the directory that train.py printed")
    with stopwatch("loading jax", said=False):
        from instructrl.inference.serving.policy_server import PolicyServer
        from instructrl.inference.trained import load_trained

    hardware = HardwareConfig("serve", platform=config.hardware.platform, precision=config.hardware.precision)
    with stopwatch("loading the agent"):
        trained = load_trained(config.run, checkpoint=config.checkpoint, hardware=hardware)
    return PolicyServer(
        trained,
        clients=config.clients,
        max_keyframes=config.max_keyframes,
        token=token,
        strict=config.strict,
        report=say,
        warn=warn,
    )


async def serve(server: "PolicyServer", listener: socket.socket, config: ServeConfig) -> None:
    """Serve until SIGTERM or ctrl-C.

    Raises:
        InputError: another program has taken the port since it was bound.
    """
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    line = f"serving {config.run} at ws://{shown}:{port}, to {config.clients} clients at once"
    try:
        await server.run(listener, ready=lambda: say(line), stop=stop)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise unavailable(host, port, error, remedy=OTHER_ADDRESS) from None
    say("stopped")


def say(line: str) -> None:
    """Print a line at once, also into a file."""
    print(line, flush=True)


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def main() -> None:
    """Run the command."""
    with report_user_errors():
        with handle_signals(working=False):
            config = tool_settings(sys.argv[1:], ServeConfig, prog=PROG, about=__doc__)
            token = read_token(config.token_file)
            listener = bound_socket(config.host, config.port)
            if token is None and not is_loopback(listener):
                warn(f"host: found {config.host} without a token: whoever reaches this port can use the agent")
            server = prepare(config, token)
        asyncio.run(serve(server, listener, config))


def is_loopback(listener: socket.socket) -> bool:
    """Return True if only programs on this machine reach a socket."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


if __name__ == "__main__":
    main()
