"""What people see: lines on stderr, above the bars if there are any. stdout is for pictures alone."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from tqdm import tqdm

from command.options import with_flags
from core.errors import ServiceError


def say(line: str) -> None:
    """Write a line; where nobody reads any more, pictures are made all the same."""
    with contextlib.suppress(BrokenPipeError):
        tqdm.write(line, file=sys.stderr)


def say_failure(name: Path | str, error: Exception) -> None:
    """Say of a picture or a folder why it is no use."""
    say(f"{shown(name)}: {_reason(name, error)}")


def shown(name: Path | str) -> str:
    """A file's name as it is, or quoted and escaped where a terminal could not show it or would obey it."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def _reason(name: Path | str, error: Exception) -> str:
    if isinstance(error, ServiceError):
        return with_flags(error)
    if isinstance(error, OSError) and error.strerror:
        if isinstance(error, FileNotFoundError) and Path(name).is_symlink():
            return f"a link to {shown(Path(name).readlink())}, which is not there"
        is_of_another = error.filename is not None and Path(error.filename) != Path(name)
        return f"{shown(error.filename)}: {error.strerror}" if is_of_another else error.strerror
    return str(error) or type(error).__name__
