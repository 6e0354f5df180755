"""`python -m bench [--quick] [SECTION …]`: measure the figures, all of them or some sections.

This module is imported again in every peer's process, so it loads nothing heavy itself.
"""

from __future__ import annotations

import argparse
import sys

from bench.results import describe_context, measure_section
from bench.server import ROOT

FOLDER = ROOT / "docs" / "bench"
QUICK_FOLDER = FOLDER / "quick"


def main() -> int:
    from bench.report import passes_table
    from bench.sections import device_name, sections

    known = sections(quick=False)
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the figures of the README.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(known)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="small pictures and two rounds: does it run, not how fast")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(known):
        parser.error(f"there is no section {', '.join(unknown)}")
    chosen = sections(quick=options.quick)
    kind, device = device_name()
    path = (QUICK_FOLDER if options.quick else FOLDER) / f"{kind}.json"
    for name in options.sections or known:
        record = measure_section(chosen[name], path, describe_context(device))
        sys.stdout.write(f"{passes_table(record)}\n\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
