"""What whoever may write to the folder of results can put there in place of a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

Put = Callable[[Path], None]


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def link_to_a_file(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_bytes(b"{}")
    path.symlink_to(elsewhere)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_endless_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


OTHER_THINGS: list[Put] = [os.mkfifo, os.mkdir, make_socket, link_to_a_file, link_to_itself, link_to_endless_zeros, make_huge]
