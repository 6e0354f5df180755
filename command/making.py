"""Make the pictures: each is decoded while the one before it is on the device, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType

from command.tasks import Task
from command.words import say, say_failure, shown
from core.config import OutputFormat, Settings
from core.errors import DeviceLost, ServiceError
from core.progress_bar import ProgressBar
from imaging.decode import decode_image
from imaging.encode import encode_image
from imaging.metadata import Metadata, chosen_metadata
from imaging.picture import Picture
from model_utility import Models
from schemas.params import UpscaleParams
from upscale import Upscaler
from utility import write_atomically


def say_plan(tasks: list[Task]) -> None:
    """What would be made."""
    for task in tasks:
        passes = ", ".join(f"{scale}×" for scale in task.plan.passes)
        (path,) = task.results.values()
        say(f"{shown(task.source.path)}: {task.plan.original} → {task.plan.output}, passes: {passes}, {_place(path)}")
        for warning in task.plan.warnings:
            say(f"{shown(task.source.path)}: {warning}")
    say(f"{len(tasks)} would be made, and nothing has been written")


def make(tasks: list[Task], params: UpscaleParams, settings: Settings, load: Callable[[Settings], Models]) -> int:
    """Make every picture, and return how many failed. Loads nothing where nothing is to be done.

    Raises:
        WeightsError, ConfigError, ModelUnavailable: nothing can be made with what is here.
        DeviceLost: no more can be.
    """
    if not tasks:
        return 0
    upscaler, failed = Upscaler(load(settings)), 0
    works = [upscaler.work(task.plan, task.has_alpha, params.enhance_faces) for task in tasks]
    with ProgressBar(f"{len(tasks)} pictures", sum(works), hidden=len(tasks) == 1) as overall:
        for (task, decoded), work in zip(_decoded_ahead(tasks, params), works, strict=True):
            name = shown(task.source.path.name)
            with ProgressBar(f"{name} {task.plan.original} → {task.plan.output}", work, overall) as bar:
                try:
                    _make(task, decoded, params, upscaler, bar)
                except DeviceLost:  # every other picture would fail too
                    raise
                except (ServiceError, OSError, MemoryError, RuntimeError) as exc:  # the last is torch's of no memory
                    say_failure(task.source.path, exc)
                    failed += 1
                bar.advance(bar.left)  # of one that failed, or did not count all that it did
    return failed


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What is to go through the network, and to be written."""

    picture: Picture
    output_format: OutputFormat
    metadata: Metadata
    warnings: list[str]


def _decoded_ahead(tasks: list[Task], params: UpscaleParams) -> Iterator[tuple[Task, Future[_Decoded]]]:
    """Each task with its picture, which is decoded while the one before it is on the device."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_decode, tasks[0], params)
        for task, following in pairwise([*tasks, None]):
            decoded = ahead
            if following:
                ahead = reader.submit(_decode, following, params)
            if task:
                yield task, decoded


def _decode(task: Task, params: UpscaleParams) -> _Decoded:
    opened = task.opened()
    picture, warnings = decode_image(opened)
    output_format = task.output_format(picture.alpha is not None)
    size = task.plan.output
    metadata, left_out = chosen_metadata(params.metadata, opened.file, size.width, size.height, output_format)
    return _Decoded(picture, output_format, metadata, [*warnings, *left_out])


def _make(task: Task, future: Future[_Decoded], params: UpscaleParams, upscaler: Upscaler, bar: ProgressBar) -> None:
    start = time.monotonic()
    decoded = future.result()
    with _interrupted_between_steps(bar):
        output = upscaler.run(decoded.picture, task.plan, params, bar)
    data, encode_warnings = encode_image(output.picture, decoded.output_format, params.quality, decoded.metadata)
    path, name = task.results[decoded.output_format], shown(task.source.path)
    try:
        _write(path, data)
    except OSError as exc:
        raise OSError(exc.errno, f"{_place(path)} cannot be written: {exc.strerror}") from exc
    say(f"{name}: {task.plan.original} → {task.plan.output}, {_place(path)}, {time.monotonic() - start:.1f} s")
    for warning in (*decoded.warnings, *task.plan.warnings, *output.warnings, *encode_warnings):
        say(f"{name}: {warning}")


def _write(path: Path | None, data: bytes) -> None:
    if path:
        write_atomically(path, data, unfinished=path.with_name(f".{secrets.token_hex(8)}.part"))
        return
    left = memoryview(data)
    while left:  # past Python's buffer, which would be flushed once more at the end where this fails
        left = left[os.write(sys.stdout.fileno(), left) :]


def _place(path: Path | None) -> str:
    return shown(path) if path else "stdout"


@contextmanager
def _interrupted_between_steps(bar: ProgressBar) -> Iterator[None]:
    """Within it, Ctrl-C ends the work at its next step: raised where an engine calls into Python from C, it would be lost."""

    def note(_number: int, _frame: FrameType | None) -> None:
        bar.interrupted = True
        signal.signal(signal.SIGINT, before)  # a second one is for whatever takes too long

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
        bar.advance(0.0)
    finally:
        signal.signal(signal.SIGINT, before)
