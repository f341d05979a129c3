"""Accelerator types of Cloud TPU: which exist, how many hosts they have, and which system images run on them.

Sources: docs.cloud.google.com/tpu/docs/v2 ... v6e (sizes and virtual machines of each generation) and .../runtimes.
"""

import difflib
import re
from dataclasses import dataclass

from instructrl.config.fields import format_value
from instructrl.config.launcher import TpuConfig
from instructrl.errors import InputError

CUBE = 128  # TensorCores of a cube of 64 chips, of which larger slices of v4 and v5p consist
OTHER_NAMES = {"v5e": "v5litepod", "v5lite": "v5litepod", "v6": "v6e", "trillium": "v6e"}


@dataclass(frozen=True)
class Generation:
    """Types of one generation.

    Attributes:
        small: sizes, the numbers after the generation's name: of chips in v5litepod and v6e, of TensorCores in others.
        largest: the largest size; those between it and the small ones are multiples of a cube.
        per_host: the part of a size that one of several hosts has.
        alone: the largest size that has a single host.
        runtime: the system image for JAX.
        runtimes: pattern of all images that run on it.
    """

    small: tuple[int, ...]
    largest: int
    per_host: int
    alone: int
    runtime: str
    runtimes: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes."""
        return (*self.small, *range(CUBE, self.largest + 1, CUBE)) if self.small[-1] < CUBE else self.small

    def hosts(self, size: int) -> int:
        """Return the number of hosts of a size."""
        return 1 if size <= self.alone else size // self.per_host


UBUNTU, OLDER, TENSORFLOW = "tpu-ubuntu2204-base", r"tpu-ubuntu\d{4}-base|tpu-vm-.+", r"tpu-vm-tf-.+"
PARTS, FLAT = (8, 16, 32, 64), (1, 4, 8, 16, 32, 64, 128, 256)  # of a cube; of a pod with two dimensions
GENERATIONS = {
    "v2": Generation((8, 32, 128, 256, 512), 512, 8, 8, UBUNTU, OLDER),
    "v3": Generation((8, 32, 64, 128, 256, 512, 1024, 2048), 2048, 8, 8, UBUNTU, OLDER),
    "v4": Generation(PARTS, 8192, 8, 8, UBUNTU, OLDER),
    "v5litepod": Generation(FLAT, 256, 4, 8, "v2-alpha-tpuv5-lite", rf"v2-(alpha-)?tpuv5-lite.*|{TENSORFLOW}"),
    "v5p": Generation(PARTS, 12288, 8, 8, "v2-alpha-tpuv5", rf"v2-(alpha-)?tpuv5(?!-lite).*|{TENSORFLOW}"),
    "v6e": Generation(FLAT, 256, 4, 8, "v2-alpha-tpuv6e", rf"v2-(alpha-)?tpuv6e.*|{TENSORFLOW}"),
}


@dataclass(frozen=True)
class Slice:
    """The accelerator of a pod: its type, its number of hosts, and their system image."""

    accelerator: str
    hosts: int
    runtime: str


def slice_of(tpu: TpuConfig) -> Slice:
    """Return the accelerator that the settings ask for.

    Raises:
        InputError: it does not exist, or `hosts` or `runtime` contradict it.
    """
    if tpu.accelerator is None:
        raise InputError(
            "accelerator: not set; give launcher=tpu_v4_32 or another of conf/launcher/, or accelerator=v4-32"
        )
    name, size = split_type(tpu.accelerator)
    generation = GENERATIONS.get(name)
    if generation is None:
        return unknown_slice(tpu, name)
    if size not in generation.sizes:
        raise InputError(f"accelerator: found {tpu.accelerator}; allowed: {describe_sizes(name)}")
    hosts = generation.hosts(size)
    if tpu.hosts not in (None, hosts):
        raise InputError(
            f"hosts: found {tpu.hosts}, but {tpu.accelerator} has {hosts}; leave hosts= out, or correct accelerator="
        )
    return Slice(tpu.accelerator, hosts, checked_runtime(tpu, generation))


def split_type(accelerator: str) -> tuple[str, int]:
    """Split a type into its generation and its size.

    Raises:
        InputError: it has another form.
    """
    match = re.fullmatch(r"([a-z]+\d+[a-z]*)-([1-9]\d{0,5})", accelerator)
    if match is None:
        raise InputError(f"accelerator: found {format_value(accelerator)}; {suggest_type(accelerator)}")
    return match[1], int(match[2])


def unknown_slice(tpu: TpuConfig, generation: str) -> Slice:
    """Return a type of a generation that came after this table, which the user describes in full.

    Raises:
        InputError: `hosts` or `runtime` is missing, or the name is another one of a known generation.
    """
    if tpu.hosts is None or tpu.runtime is None or generation in OTHER_NAMES:
        raise InputError(
            f"accelerator: found {format_value(tpu.accelerator)}; {suggest_type(str(tpu.accelerator))}; "
            "a type that is newer than this list needs hosts=NUMBER and runtime=NAME"
        )
    return Slice(str(tpu.accelerator), tpu.hosts, tpu.runtime)


def checked_runtime(tpu: TpuConfig, generation: Generation) -> str:
    """Return the system image, by default that for JAX.

    Raises:
        InputError: the image does not run on the accelerator.
    """
    if tpu.runtime is None or re.fullmatch(generation.runtimes, tpu.runtime):
        return tpu.runtime or generation.runtime
    of = [name for name, other in GENERATIONS.items() if re.fullmatch(other.runtimes, tpu.runtime)]
    found = f"an image of {', '.join(of)}" if of else "no known image"
    raise InputError(
        f"runtime: found {format_value(tpu.runtime)}, {found}; {tpu.accelerator} runs {generation.runtime} "
        "or an image of TensorFlow, tpu-vm-tf-...; leave runtime= out for the former"
    )


def suggest_type(found: str) -> str:
    """Return a phrase with the types that an unknown one may stand for."""
    name, dash, size = found.partition("-")
    if name in OTHER_NAMES:
        return f"did you mean {OTHER_NAMES[name]}{dash}{size}?"
    names = [f"{known}-{size}" for known, entry in GENERATIONS.items() for size in entry.sizes]
    near = difflib.get_close_matches(found, names, n=2, cutoff=0.75)
    allowed = "allowed: " + "; ".join(map(describe_sizes, GENERATIONS))
    return f"did you mean {' or '.join(near)}? {allowed}" if near else allowed


def describe_sizes(generation: str) -> str:
    """Return a phrase with all types of a generation."""
    entry = GENERATIONS[generation]
    cubes = f", or a multiple of {CUBE} up to {entry.largest}" if entry.sizes != entry.small else ""
    return f"{generation}-{'|'.join(map(str, entry.small))}{cubes}"


def expected_hosts(tpu: TpuConfig, accelerator: str | None) -> int | None:
    """Return the number of hosts of an existing pod with this accelerator; None if it is unknown."""
    match = re.fullmatch(r"(\w+)-(\d+)", accelerator or "")
    generation = GENERATIONS.get(match[1]) if match else None
    return tpu.hosts or (generation.hosts(int(match[2])) if match and generation else None)
