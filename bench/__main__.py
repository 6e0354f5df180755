"""`python -m bench [--quick] [SECTION …]`: measure all benchmarks, or some sections of them, and report.

Results go to `docs/bench/` and into docs/benchmarks.md; with `--quick`, to `docs/bench/quick/` alone. This module is imported
again in every engine's process, so it loads nothing heavy itself.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from bench.compare.runner import Section, measure_section
from bench.context import describe_context
from bench.results import FOLDER, read_records

QUICK_FOLDER = FOLDER / "quick"


def main() -> int:
    from bench.compare.sections import device_name, sections
    from bench.report.plot import draw
    from bench.report.summary import stored_summary, summary, write_summary

    options = _options(list(sections(quick=False)))
    kind, device = device_name()
    folder = QUICK_FOLDER if options.quick else FOLDER
    path = folder / f"{kind}.json"
    chosen = sections(quick=options.quick)
    failed = _measure([section for name, section in chosen.items() if name in (options.sections or chosen)], path, device)
    records = read_records(path)
    if options.quick:
        _say(summary(*((records, {}) if kind == "cpu" else ({}, records))))
        _say("\nQUICK: small pictures and few rounds. This shows that everything runs; the targets are for the full sizes.")
        draw(records, folder / "benchmarks.png")
    else:
        _say(stored_summary())
        write_summary()
    _say(f"In {folder}: {path.name} and benchmarks.png.")
    if failed:
        _say(f"Failed: {', '.join(failed)}. Their rows in the table are older, or partial.", sys.stderr)
    return 1 if failed else 0


def _measure(sections: list[Section], path: Path, device: dict[str, Any]) -> list[str]:
    """The names of the sections that failed; a failure is printed and does not stop the others."""
    failed = []
    for section in sections:
        _say(f"measuring {section.name} …", sys.stderr)
        start = time.monotonic()
        try:
            measure_section(section, path, describe_context(device))
        except Exception:
            traceback.print_exc()
            failed.append(section.name)
        _say(f"  {time.monotonic() - start:.0f} s", sys.stderr)
    return failed


def _options(known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the benchmarks of docs/benchmarks.md.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(known)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="small pictures and few rounds: whether it runs, not how fast")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(known):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    return options


def _say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
