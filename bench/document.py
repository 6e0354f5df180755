"""Documents with figures: every command that measures writes its own part, between two markers."""

from __future__ import annotations

from pathlib import Path

from bench.server import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"


def write_part(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace that part of the document."""
    document.write_text(with_part(document.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def with_part(document: str, name: str, text: str) -> str:
    """The document with `text` between `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        ValueError: it lacks one of the markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, has_begin, rest = document.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise ValueError(f"the document has no {begin} … {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"
