"""The command line: `python cli.py photo.jpg more/*.png -o out/ --target 4k`.

Options are the fields of a request, the pipeline is the service's, and so are the bytes that come out. Everything that can be
known without a network is said before anything runs, and of pixels only alpha is looked at; after that, a picture that fails
does not stop the others.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from core.config import EXTENSIONS, INPUT_FORMATS, ConfigError, OutputFormat, Settings, either
from core.errors import ConflictingFields, DeviceLost, ServiceError
from core.progress_bar import ProgressBar
from imaging.decode import decode_image
from imaging.encode import encode_image
from imaging.formats import InputLimits, OpenedImage, open_image
from imaging.metadata import NO_METADATA, Metadata, kept_metadata
from imaging.picture import Picture
from model_utility import Models, WeightsError, load_models
from schemas.json_schema import Schema
from schemas.params import PARAMS, UpscaleParams, limits_of, parse_params, usual_format
from schemas.plan import Plan, Size, plan_for
from upscale import Upscaler
from utility import write_atomically

# By parameter; enhance_faces is --no-faces.
FLAGS = {
    "target_resolution": "--target",
    "model": "--model",
    "denoise": "--denoise",
    "face_strength": "--face-strength",
    "output_format": "--format",
    "quality": "--quality",
    "fit": "--fit",
    "scale": "--scale",
    "metadata": "--metadata",
}
_FORMATS = {f".{extension}": image_format for image_format, extension in EXTENSIONS.items()} | {".jpeg": "jpeg"}
_KINDS: dict[str, Callable[[str], Any]] = {"string": str, "integer": int, "number": float}


@dataclass(frozen=True)
class _Task:
    """One picture to be made."""

    source: Path
    result: Path
    output_format: OutputFormat
    plan: Plan
    has_alpha: bool


def main(arguments: list[str] | None = None, load: Callable[[Settings], Models] = load_models) -> int:
    """Exit status 0: every picture is there; 1: at least one failed; 2: the arguments are wrong; 130: stopped by Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = Settings.from_env({**os.environ, **({"DEVICE": options.device} if options.device else {})})
        if settings.device in ("all", "ray") or "," in settings.device:
            raise ConfigError(f"This runs on one device: set --device to auto, cpu, cuda or cuda:N, not {settings.device!r}")
        params = _params(options, parser)
        tasks, failed = _tasks(options, params, parser)
        return 1 if _run(tasks, params, settings, load) + failed else 0
    except ConfigError as exc:
        _say(str(exc))
        return 2
    except DeviceLost as exc:
        _say(f"The device has failed: {exc.reason}. Start the same command again: it goes on where this one stopped.")
        return 1
    except (WeightsError, ServiceError) as exc:  # nothing can be made with what is here
        _say(str(exc))
        return 1
    except KeyboardInterrupt:
        _say("Stopped. Pictures that are done are kept, and nothing half-written is left behind.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cli.py",
        description="Make pictures larger, as the service does.",
        epilog="Results keep the names of their pictures. What is there already is skipped: delete it to have it made again. "
        "Exit status: 0 all done, 1 some failed, 2 wrong arguments, 130 stopped by Ctrl-C.",
    )
    parser.add_argument("inputs", type=Path, nargs="+", metavar="picture", help=f"{either(INPUT_FORMATS)}, of any size")
    parser.add_argument(
        "-o", "--output", required=True, help="a folder; for one picture also a file that ends in .jpg, .png or .webp"
    )
    for name, flag in FLAGS.items():
        schema = PARAMS[name]
        limits = f", {limits_of(schema)}" if "maximum" in schema else ""
        default = f" (default: {schema['default']})" if "default" in schema else ""
        parser.add_argument(
            flag,
            dest=name,
            type=partial(_value, name, schema),
            default=argparse.SUPPRESS,
            metavar="|".join(schema["enum"]) if "enum" in schema else "number",
            help=schema["description"].replace("%", "%%") + limits + default,
        )
    parser.add_argument("--no-faces", dest="enhance_faces", action="store_false", help="leave faces as they are")
    parser.add_argument("--device", metavar="auto|cpu|cuda|cuda:N", help="instead of the variable DEVICE")
    return parser


def _value(name: str, schema: Schema, text: str) -> Any:
    try:
        value = _KINDS[schema["type"]](text)
    except ValueError:
        value = text  # whose parameter says what it should be
    try:
        return getattr(parse_params({name: value}), name)
    except ServiceError as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc


def _params(options: argparse.Namespace, parser: argparse.ArgumentParser) -> UpscaleParams:
    try:
        return parse_params({name: value for name, value in vars(options).items() if name in PARAMS})
    except ConflictingFields:
        parser.error("--scale takes the place of --target and --fit: leave them out")


# what is to be done


def _tasks(options: argparse.Namespace, params: UpscaleParams, parser: argparse.ArgumentParser) -> tuple[list[_Task], int]:
    """The pictures to be made, in order, and how many inputs are no use; those that are there already are left out.

    Two pictures for one name, or an output in place of an input, end the program before anything is run.
    """
    file_format = _file_format(options, params, parser)
    inputs = {_identity(source) for source in options.inputs} - {None}
    tasks: dict[Path, _Task] = {}
    failed = 0
    for source in options.inputs:
        try:
            task = _task(source, params, Path(options.output), file_format)
        except (ServiceError, OSError, MemoryError) as exc:
            _say_failure(source, exc)
            failed += 1
            continue
        if other := tasks.get(task.result):
            if _identity(source) == _identity(other.source):  # photo.jpg *.jpg
                continue
            parser.error(f"{other.source} and {source} would both become {task.result}: give them folders of their own")
        if _identity(task.result) in inputs:
            parser.error(f"{source} would become {task.result}, which is itself an input: choose another folder with -o")
        tasks[task.result] = task
    left = [task for task in tasks.values() if not _is_there(task)]
    if left:
        _check_writable(left[0].result.parent, parser)
    return left, failed


def _check_writable(folder: Path, parser: argparse.ArgumentParser) -> None:
    """Try now what will be done once a picture is made, which may be hours later."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as exc:
        parser.error(f"no file can be written in {str(folder)!r}: {exc.strerror}")


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _file_format(options: argparse.Namespace, params: UpscaleParams, parser: argparse.ArgumentParser) -> OutputFormat | None:
    """The format of the one file that -o names; None where it names a folder, which is made here."""
    if not options.output:
        parser.error("-o is empty: give a folder, such as . for this one")
    output = Path(options.output)
    image_format = _FORMATS.get(output.suffix.lower())
    is_folder = output.is_dir() or options.output.endswith(os.sep) or not output.suffix
    if is_folder:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            parser.error(f"-o {options.output}: {exc.strerror}")
        return None
    if image_format is None:
        parser.error(f"-o {options.output} must end in .jpg, .png or .webp, or be a folder: {options.output}{os.sep}")
    if len(options.inputs) > 1:
        parser.error(f"-o {options.output} is one file for {len(options.inputs)} pictures: give a folder")
    if params.output_format not in (None, image_format):
        parser.error(f"-o {options.output} is no {params.output_format} file, which --format asks for")
    if not output.parent.is_dir():
        parser.error(f"-o {options.output}: there is no folder {str(output.parent)!r}")
    return image_format


def _task(source: Path, params: UpscaleParams, output: Path, file_format: OutputFormat | None) -> _Task:
    image = _open(source)
    plan = plan_for(Size(image.width, image.height), params)
    has_alpha = image.has_alpha and decode_image(image)[0].alpha is not None
    output_format = file_format or params.output_format or usual_format(has_alpha)
    result = output if file_format else output / f"{source.stem}.{EXTENSIONS[output_format]}"
    if result.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{result}, where the result belongs, is a folder")
    return _Task(source, result, output_format, plan, has_alpha)


def _open(source: Path) -> OpenedImage:
    return open_image(source.read_bytes(), InputLimits(sys.maxsize))  # who runs this knows what the files are


def _is_there(task: _Task) -> bool:
    if task.result.exists():
        _say(f"{task.source}: skipped, since {task.result} is there already")
        return True
    return False


# doing it


def _run(tasks: list[_Task], params: UpscaleParams, settings: Settings, load: Callable[[Settings], Models]) -> int:
    """Make every picture, and return how many failed. Loads nothing where nothing is to be done."""
    if not tasks:
        return 0
    upscaler, failed = Upscaler(load(settings)), 0
    works = [upscaler.work(task.plan, task.has_alpha, params.enhance_faces) for task in tasks]
    with ProgressBar(f"{len(tasks)} pictures", sum(works), hidden=len(tasks) == 1) as overall:
        for (task, decoded), work in zip(_decoded_ahead(tasks, params), works, strict=True):
            with ProgressBar(f"{task.source.name} {task.plan.original} → {task.plan.output}", work, overall) as bar:
                try:
                    _make(task, decoded, params, upscaler, bar)
                except DeviceLost:  # every other picture would fail too
                    raise
                except (ServiceError, OSError, MemoryError, RuntimeError) as exc:  # the last is torch's of no memory
                    _say_failure(task.source, exc)
                    failed += 1
                bar.advance(bar.left)  # of one that failed, or did not count all that it did
    return failed


_Decoded = tuple[Picture, Metadata, list[str]]


def _decoded_ahead(tasks: list[_Task], params: UpscaleParams) -> Iterator[tuple[_Task, Future[_Decoded]]]:
    """Each task with its picture, which is decoded while the one before it is on the device."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_decode, tasks[0], params)
        for task, following in pairwise([*tasks, None]):
            decoded = ahead
            if following:
                ahead = reader.submit(_decode, following, params)
            if task:
                yield task, decoded


def _decode(task: _Task, params: UpscaleParams) -> _Decoded:
    opened = _open(task.source)
    picture, warnings = decode_image(opened)
    metadata, size = NO_METADATA, task.plan.output
    if params.metadata == "keep":
        metadata, left_out = kept_metadata(opened.file, size.width, size.height, task.output_format)
        warnings += left_out
    return picture, metadata, warnings


def _make(task: _Task, decoded: Future[_Decoded], params: UpscaleParams, upscaler: Upscaler, bar: ProgressBar) -> None:
    start = time.monotonic()
    picture, metadata, warnings = decoded.result()
    with _interrupted_between_steps(bar):
        output = upscaler.run(picture, task.plan, params, bar)
    data, encode_warnings = encode_image(output.picture, task.output_format, params.quality, metadata)
    try:
        write_atomically(task.result, data, task.result.with_name(f".{secrets.token_hex(8)}.part"))
    except OSError as exc:
        raise OSError(exc.errno, f"{task.result} cannot be written: {exc.strerror}") from exc
    _say(f"{task.source}: {task.plan.original} → {task.plan.output}, {task.result}, {time.monotonic() - start:.1f} s")
    for warning in (*warnings, *task.plan.warnings, *output.warnings, *encode_warnings):
        _say(f"{task.source}: {warning}")


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


# what people see


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # above the bars, if there are any


def _say_failure(source: Path, error: Exception) -> None:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    _say(f"{source}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
