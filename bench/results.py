"""The stored samples: `docs/bench/cpu.json` and `docs/bench/cuda.json`, one record a section.

A record holds the samples themselves, with the machine, the versions and the time; `bench.report` derives every benchmark.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.server import ROOT

FOLDER = ROOT / "docs" / "bench"

Sample = dict[str, float]
"""The name of each quantity with its unit, and its value: `{"ours, s": 1.6, "ours, dB": 54.2}`."""


@dataclass
class Record:
    """The samples of one section, and where, when and with what they were taken."""

    settings: dict[str, Any]
    context: dict[str, Any]
    measured_at: str = ""
    samples: list[Sample] = field(default_factory=list)

    def append(self, sample: Sample) -> None:
        """Add a sample that was taken just now."""
        self.samples.append(sample)
        self.measured_at = datetime.now(UTC).isoformat(timespec="seconds")

    def series(self, quantity: str) -> list[float]:
        """One value a sample. Raises KeyError where it was not measured."""
        return [sample[quantity] for sample in self.samples]


def read_records(path: Path) -> dict[str, Record]:
    """By section; none where nothing has been measured."""
    if not path.exists():
        return {}
    return {name: Record(**fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}


def write_record(path: Path, name: str, record: Record) -> None:
    """Store the record of one section; those of the others stay."""
    records = {**read_records(path), name: record}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(record) for name, record in sorted(records.items())}, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")
