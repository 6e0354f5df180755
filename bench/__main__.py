"""`python -m bench [--quick] [SECTION …]`: measure the figures, all of them or some sections, and report.

Results go to `docs/bench/`, and into the README's table; with `--quick`, to `docs/bench/quick/` alone. This module is imported
again in every peer's process, so it loads nothing heavy itself.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from bench.results import FOLDER, Section, describe_context, measure_section, read_records

QUICK_FOLDER = FOLDER / "quick"


def main() -> int:
    from bench.compare.sections import device_name, sections
    from bench.report import plot
    from bench.report import tables as report

    options = _options(list(sections(quick=False)))
    kind, device = device_name()
    folder = QUICK_FOLDER if options.quick else FOLDER
    path = folder / f"{kind}.json"
    chosen = sections(quick=options.quick)
    failed = _measure([section for name, section in chosen.items() if name in (options.sections or chosen)], path, device)
    records = read_records(path)
    _say(report.readme_section(*((records, {}) if kind == "cpu" else ({}, records))))
    if options.quick:
        _say("\nQUICK: small pictures and two rounds. This shows that everything runs; the goals are for the full sizes.")
        plot.draw(records, folder / "figures.png")
    else:
        report.main()
    _say(f"In {folder}: {path.name} and figures.png.")
    if failed:
        _say(f"FAILED: {', '.join(failed)}. What the table says of them is older, or partial.", sys.stderr)
    return 1 if failed else 0


def _measure(sections: list[Section], path: Path, device: dict[str, Any]) -> list[str]:
    """The names of those that failed, each of which has said why; the others are worth having all the same."""
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
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the figures of the README.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(known)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="small pictures and two rounds: does it run, not how fast")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(known):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    return options


def _say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
