"""From arguments to files: pictures by name, those of folders, those that a pattern finds, and stdin."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path

from command.options import WrongArguments
from command.words import say_failure

_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Source:
    """A file that may be a picture."""

    path: Path
    below: Path  # its place below the folder that was given, where its result belongs below that of -o
    found_by: str = ""  # the folder or the pattern; empty: the file itself was named
    is_stdin: bool = False


class Finder:
    """Finds files. What cannot be looked into is said, and counted as failed."""

    def __init__(self, is_recursive: bool, output: Path | None) -> None:
        self.failed = 0
        self.searched: list[str] = []  # folders and patterns
        self._depth = inf if is_recursive else 0
        self._output = identity(output) if output else None  # which is not looked into

    def find(self, texts: Iterable[str]) -> Iterator[Source]:
        """The files that these arguments name, in their order, those of a folder sorted."""
        for text in dict.fromkeys(texts):
            path = Path(text)
            if not text:
                raise WrongArguments("a picture's name is empty: give a file, a folder or a pattern")
            if text == "-":
                yield Source(Path("stdin"), Path("stdin"), is_stdin=True)
            elif is_folder(text):
                self.searched.append(text)
                for found in self._walk(path, self._depth):
                    yield Source(found, found.relative_to(path), text)
            elif os.path.lexists(path) or not _WILDCARDS & set(text):
                yield Source(path, Path(path.name))
            else:
                self.searched.append(text)
                yield from self._matches(path, text)

    def _matches(self, pattern: Path, text: str) -> Iterator[Source]:
        """Hidden files and folders match no wildcard, and `**` stands for folders, or none."""
        first = next(at for at, part in enumerate(pattern.parts) if _WILDCARDS & set(part))
        folder, parts = Path(*pattern.parts[:first]), pattern.parts[first:]
        for found in self._walk(folder, inf if "**" in parts else len(parts) - 1):
            if _fits(found.relative_to(folder).parts, parts):
                yield Source(found, found.relative_to(folder), text)

    def _walk(self, top: Path, depth: float) -> Iterator[Path]:
        for folder, folders, names in os.walk(top, onerror=self._note):  # follows no links
            at = Path(folder)
            is_deeper = len(at.relative_to(top).parts) < depth
            visible = [at / name for name in sorted(folders) if is_deeper and not name.startswith(".")]
            folders[:] = [path.name for path in visible if self._output is None or identity(path) != self._output]
            yield from (at / name for name in sorted(names) if not name.startswith("."))

    def _note(self, error: OSError) -> None:
        say_failure(error.filename, error)
        self.failed += 1


def _fits(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return patterns == ("**",) or any(_fits(parts[start:], patterns[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def is_folder(text: str) -> bool:
    """Whether a folder has this name, which may be longer than any can be."""
    return os.path.isdir(text)  # noqa: PTH112 - Path.is_dir raises then


def identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
