"""What is to be done: which pictures become which files. Pixels are looked at only where the name hangs on their alpha."""

from __future__ import annotations

import argparse
import errno
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from command.inputs import Finder, Source, identity, is_folder
from command.options import WrongArguments, is_label
from command.output import FORMATS, Output, make_writable
from command.words import say, say_failure, shown
from core.config import INPUT_FORMATS, MIB, OutputFormat, either
from core.errors import ServiceError
from imaging.decode import decode_image
from imaging.formats import RECOGNISED_BYTES, InputLimits, OpenedImage, is_image, open_image
from schemas.params import UpscaleParams, usual_format
from schemas.plan import Plan, Size, plan_for

HELD_BYTES = 256 * MIB  # of files that are read once; those beyond it are read again when it is their turn


@dataclass(frozen=True, eq=False)
class Task:
    """One picture to be made."""

    source: Source
    results: Mapping[OutputFormat, Path | None]  # of Output
    plan: Plan
    has_alpha: bool  # as the header says
    image: OpenedImage | None  # None: the file is to be read again

    @property
    def paths(self) -> list[Path]:
        """Where the result may go, but for stdout."""
        return [path for path in self.results.values() if path]

    def output_format(self, has_alpha: bool) -> OutputFormat:
        """That of the result, once it is known whether the picture has alpha."""
        usual = usual_format(has_alpha)
        return usual if usual in self.results else next(iter(self.results))

    def opened(self) -> OpenedImage:
        """The file with its header read."""
        image = self.image or open_source(self.source)
        if (image.width, image.height) != (self.plan.original.width, self.plan.original.height):
            raise OSError("the file has changed since it was first read")
        return image


def open_source(source: Source) -> OpenedImage:
    """Read a file and its header; of one that is no picture, only the start.

    Raises:
        ServiceError, OSError: it cannot be read, or is no picture.
    """
    if source.is_stdin:
        if sys.stdin is None:
            raise OSError("it is closed")
        data = sys.stdin.buffer.read()
    else:
        with source.path.open("rb") as file:
            data = file.read(RECOGNISED_BYTES)
            if is_image(data):
                data += file.read()
    return open_image(data, InputLimits(sys.maxsize))  # who runs this knows what the files are


def find_tasks(options: argparse.Namespace, params: UpscaleParams) -> tuple[list[Task], int]:
    """The pictures to be made, in order, and how many inputs are no use. Without a dry run, their folders are there then.

    Raises:
        WrongArguments: two pictures would become one file, or one an input, or a result has no place.
    """
    output = Output(options, params)
    finder = Finder(options.recursive, output.folder)
    sources, useless = _pictures(options, finder)
    if output.is_one and len(sources) + useless > 1:
        raise WrongArguments(f"-o {options.output} is one file for {len(sources) + useless} pictures: give a folder")
    tasks, failed = _planned(_without_results(sources), params, output)
    tasks, broken = _settled(tasks, options.dry_run)
    tasks = _apart(tasks)
    left = [task for task in tasks if options.force or not _is_there(task)]
    if not options.dry_run:
        for folder in dict.fromkeys(path.parent for task in left for path in task.paths):
            make_writable(folder)
    return left, useless + failed + broken


def _pictures(options: argparse.Namespace, finder: Finder) -> tuple[list[Source], int]:
    """What is found, but for what is no picture and was not named, and how many inputs are no use."""
    sources, failed, others, fruitful = [], 0, 0, set()
    for source in finder.find(options.inputs):
        try:
            if source.found_by and not _is_picture(source.path):
                others += 1
                continue
            sources.append(source)
        except OSError as exc:
            say_failure(source.path, exc)
            failed += 1
        fruitful.add(source.found_by)
    if others:
        say(f"{others} {'file is' if others == 1 else 'files are'} no {either(INPUT_FORMATS)}, and skipped")
    for text in finder.searched:
        if text not in fruitful:
            deeper = "; -r looks in its folders too" if is_folder(text) and not options.recursive else ""
            say(f"{shown(text)}: no picture was found{deeper}")
            failed += 1
    return sources, failed + finder.failed


def _is_picture(path: Path) -> bool:
    """Whether a file that was found is worth reading; a pipe would be waited for.

    Raises:
        OSError: it is a link to nothing, or cannot be read.
    """
    path.stat()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return is_image(file.read(RECOGNISED_BYTES))


def _without_results(sources: list[Source]) -> list[Source]:
    """Without those that have the name of another one's result beside it, whatever the parameters were."""
    stems = {(source.path.parent, source.path.stem): source.path for source in sources if not source.is_stdin}
    left, results = [], []
    for source in sources:
        stem, dash, label = source.path.stem.rpartition("-")
        is_result = dash and is_label(label) and source.path.suffix.lower() in FORMATS
        if origin := is_result and stems.get((source.path.parent, stem)):
            results.append(f"{shown(source.path)} of {shown(origin)}")
        else:
            left.append(source)
    if results:
        say(f"{len(results)} skipped as results of others by their names, such as {results[0]}: to enlarge one, give it alone")
    return left


def _planned(sources: list[Source], params: UpscaleParams, output: Output) -> tuple[list[Task], int]:
    """What would become of each, and how many cannot be made."""
    tasks, failed, held = [], 0, 0
    for source in sources:
        try:
            image = open_source(source)
            plan = plan_for(Size(image.width, image.height), params)
            results = output.results(source, image.has_alpha)
            for path in results.values():
                if path and path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"{shown(path)}, where the result belongs, is a folder")
        except (ServiceError, OSError, MemoryError) as exc:
            say_failure(source.path, exc)
            failed += 1
            continue
        held += len(image.file.data)
        is_read_once = held <= HELD_BYTES or source.is_stdin or not source.path.is_file()  # as a pipe
        tasks.append(Task(source, results, plan, image.has_alpha, image if is_read_once else None))
    return tasks, failed


def _settled(tasks: list[Task], is_dry_run: bool) -> tuple[list[Task], int]:
    """With one result each where two cannot be told apart otherwise, and how many are damaged."""
    claims = Counter(_key(path) for task in tasks for path in task.paths)
    settled, failed = [], 0
    for task in tasks:
        if len(task.results) > 1 and (is_dry_run or any(claims[_key(path)] > 1 or path.exists() for path in task.paths)):
            try:
                image_format = task.output_format(decode_image(task.opened())[0].alpha is not None)
            except (ServiceError, OSError, MemoryError) as exc:
                say_failure(task.source.path, exc)
                failed += 1
                continue
            settled.append(replace(task, results={image_format: task.results[image_format]}))
        else:
            settled.append(task)
    return settled, failed


def _key(path: Path) -> str:
    """The same for paths that are one where upper and lower case are the same."""
    return str(path).casefold()


def _apart(tasks: list[Task]) -> list[Task]:
    """Each once, and all with results of their own."""
    inputs = {identity(task.source.path) for task in tasks} - {None}
    claimed: dict[str, Task] = {}
    left = []
    for task in tasks:
        others = [claimed[_key(path)] for path in task.paths if _key(path) in claimed]
        if any(task.paths == other.paths and identity(task.source.path) == identity(other.source.path) for other in others):
            continue  # photo.jpg *.jpg
        name = shown(task.source.path)
        if others:
            raise WrongArguments(
                f"{shown(others[0].source.path)} and {name} would both become {shown(task.paths[0])}: "
                "make them one after the other, with different folders for -o"
            )
        for path in task.paths:
            if identity(path) in inputs:
                raise WrongArguments(f"{name} would become {shown(path)}, which is itself an input: give another folder to -o")
            claimed[_key(path)] = task
        left.append(task)
    return left


def _is_there(task: Task) -> bool:
    for path in task.paths:
        if path.exists():  # of two, none is, or it would be settled
            say(f"{shown(task.source.path)}: skipped, since {shown(path)} is there already")
            return True
    return False
