"""What was measured, on disk: `docs/bench/cpu.json` and `docs/bench/cuda.json`, one record a section.

A record holds the samples themselves, from which `bench.report` derives every figure, with the machine, the versions and the
time. It is written after each sample: a section that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.server import ROOT

FOLDER = ROOT / "docs" / "bench"
PACKAGES = ("torch", "openvino", "onnxruntime", "ncnn", "realesrgan", "numpy", "opencv-python", "pillow")

Sample = dict[str, float]
"""The name of each quantity with its unit, and its value: `{"ours, s": 1.6, "ours, dB": 54.2}`."""


@dataclass(frozen=True)
class Section:
    """A part of the figures that is measured in one go: `measure(n)` gives `n` samples, one after the other."""

    name: str
    settings: dict[str, Any]
    sample_count: int
    measure: Callable[[int], Iterator[Sample]]


@dataclass
class Record:
    """The samples of one section, and where, when and with what they were taken."""

    settings: dict[str, Any]
    context: dict[str, Any]
    measured_at: str = ""
    samples: list[Sample] = field(default_factory=list)

    def series(self, quantity: str) -> list[float]:
        """One value a sample. Raises KeyError where it was not measured."""
        return [sample[quantity] for sample in self.samples]


def read_records(path: Path) -> dict[str, Record]:
    """By section; none where nothing has been measured."""
    if not path.exists():
        return {}
    return {name: Record(**fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}


def measure_section(section: Section, path: Path, context: dict[str, Any]) -> Record:
    """Measure what is missing of a section, or all of it again where nothing is; each sample is on disk at once."""
    record = read_records(path).get(section.name)
    unfinished = record is not None and len(record.samples) < section.sample_count
    if record is None or not unfinished or (record.settings, record.context) != (section.settings, context):
        record = Record(section.settings, context)
    for sample in section.measure(section.sample_count - len(record.samples)):
        record.samples.append(sample)
        record.measured_at = datetime.now(UTC).isoformat(timespec="seconds")
        _write(path, section.name, record)
    return record


def _write(path: Path, name: str, record: Record) -> None:
    records = {**read_records(path), name: record}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(record) for name, record in sorted(records.items())}, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def describe_context(device: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on beside the code: the machine and the versions; and which commit the code was."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        **device,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _commit() -> str:
    """The commit that the code is, and a + where Python files differ from it: results change while others are measured."""
    head = _git("rev-parse", "--short", "HEAD")
    return f"{head}+" if _git("status", "--porcelain", "--", "*.py") else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
