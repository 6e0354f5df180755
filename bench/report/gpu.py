"""docs/gpu.md's tables, from the figures that `bench.gpu` has left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]

ENGINES = {"RealESRGANer": "`RealESRGANer`, `half=True`", "fp16": "torch's kernels", "fused": "ours"}


def report(figures: Figures) -> str:
    """All tables, as Markdown."""
    return "\n\n".join((_context(figures), _times(figures), _exactness(figures), _rest(figures)))


def _context(figures: Figures) -> str:
    context, versions = figures["context"], figures["torch, CUDA, cuDNN, architectures"]
    return (
        f"{context['date']}, {context['device']}, torch {versions[0]}, cuDNN {versions[2]}, Python {context['python']}; "
        f"commit {context['commit']}. Measured ceilings: {figures['matrix product, TFLOP/s']:.0f} TFLOP/s for an fp16 matrix "
        f"product of 8192³, {figures['copy, TB/s']} TB/s for a copy within the card. Medians of seven, in milliseconds, from "
        "picture to picture in the host's memory."
    )


def _times(figures: Figures) -> str:
    header = (*ENGINES.values(), "`RealESRGANer` / ours", "torch's / ours", "TFLOP/s", "of the product's rate", "memory")
    rows = [("x4plus, one pass", *header), ("---",) * (1 + len(header))]
    for size in _keys(figures, "time, fused, "):
        theirs, torchs, ours = (figures[f"time, {engine}, {size}"] for engine in ENGINES)
        rate = ours["TFLOP/s"]
        rows.append(
            (
                size.replace("x", "×"),
                *(f"{each['ms']:.1f}" for each in (theirs, torchs, ours)),
                *(f"{each['ms'] / ours['ms']:.1f} ×" for each in (theirs, torchs)),
                f"{rate:.0f}",
                f"{100 * rate / figures['matrix product, TFLOP/s']:.0f} %",
                f"{ours['MiB']} MiB",
            )
        )
    return _table(rows)


def _exactness(figures: Figures) -> str:
    rows = [("against fp32 on the CPU", "kernels", "PSNR", "largest error", "the same again"), ("---",) * 5]
    for key in _keys(figures, "exactness, "):
        found = figures[f"exactness, {key}"]
        picture = key.split(", ")[1]
        repeats = "yes" if found["repeats"] else "no"
        rows.append((picture, found["engine"], f"{found['dB']:.1f} dB", _levels(found["grey levels"]), repeats))
    return _table(rows)


def _rest(figures: Figures) -> str:
    rows = [("also measured", ""), ("---", "---")]
    for size in _keys(figures, "graph, "):
        graph = figures[f"graph, {size}"]
        text = f"{graph['queued, ms']:.1f} ms queued, {graph['replayed, ms']:.1f} ms replayed from a CUDA graph"
        rows.append((f"body of {size}", text))
    for key in _keys(figures, "detection, "):
        rows.append((f"search for faces, {key}", f"{figures[f'detection, {key}'][0]:.0f} ms"))
    for key in _keys(figures, "restoration, "):
        rows.append((f"GFPGAN in fp32, {key}", f"{figures[f'restoration, {key}'][0]:.0f} ms"))
    for key in _keys(figures, "JPEG "):
        rows.append((f"JPEG of 7680×4320 {key}", f"{figures[f'JPEG {key}']['ms']:.0f} ms"))
    for key in _keys(figures, "a full card, "):
        rows.append((f"a pass of 1920×1080 with 0.7 GB free, {key}", figures[f"a full card, {key}"]))
    return _table(rows)


def _levels(count: int) -> str:
    return "1 grey level" if count == 1 else f"{count} grey levels"


def _keys(figures: Figures, prefix: str) -> Iterator[str]:
    return (key.removeprefix(prefix) for key in figures if key.startswith(prefix))


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
