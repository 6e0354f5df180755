"""Measure section by section and round by round; each sample is stored at once, so that an interrupted section continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results import Record, Sample, read_records, write_record


@dataclass(frozen=True)
class Section:
    """A part of the benchmarks that is measured in one go: `measure(n)` yields `n` samples, one after the other."""

    name: str
    settings: dict[str, Any]
    sample_count: int
    measure: Callable[[int], Iterator[Sample]]


def measure_section(section: Section, path: Path, context: dict[str, Any]) -> Record:
    """Measure the samples that are missing, or all of them again where none is."""
    record = read_records(path).get(section.name)
    unfinished = record is not None and len(record.samples) < section.sample_count
    if record is None or not unfinished or (record.settings, record.context) != (section.settings, context):
        record = Record(section.settings, context)
    for sample in section.measure(section.sample_count - len(record.samples)):
        record.append(sample)
        write_record(path, section.name, record)
    return record


def in_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[dict[str, float]]:
    """One value of each measure a round: A B C, A B C, so that whatever slows the machine for a while slows them all."""
    for _ in range(rounds):
        yield {name: measure() for name, measure in measures.items()}
