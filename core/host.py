"""What the machine or the container gives this process: its memory, and folders that it may write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def memory_limit_bytes() -> int:
    """The least memory limit of the cgroups that this process is in (v2 or v1); a very large number where there is none."""
    texts = [path.read_text().strip() for path in _limit_files() if path.exists()]
    return min((int(text) for text in texts if text.isdigit()), default=sys.maxsize)


def _limit_files() -> Iterator[Path]:
    """A container may see its cgroup by the host's path, or as the root."""
    for line in _OF_PROCESS.read_text().splitlines() if _OF_PROCESS.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            folder = Path(f"{_CGROUPS}/{controllers}{path}")
            for cgroup in (folder, *folder.parents):
                yield cgroup / ("memory.limit_in_bytes" if controllers else "memory.max")


def unusable_folder(setting: str, folder: Path, error: OSError, verb: str = "written") -> str:
    """A sentence for the operator: which folder, why not, and what mends that."""
    fault = f"{setting} {folder} cannot be {verb}: {error.strerror}"
    if not isinstance(error, PermissionError):
        return fault
    owner = f"{os.geteuid()}:{os.getegid()}"
    return (
        f"{fault} for user {os.geteuid()}. To mend that: chown -R {owner} {folder} (of a container: the folder or the volume "
        "that is mounted there)"
    )
