"""The folder of results: saved whole or not at all, found by name, removed when they are old or too many."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.config import MIB, Settings
from core.errors import FileNotFound
from utility import write_atomically

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"  # the folder, in that of results, of what belongs to jobs that are not done
MAX_RECORDS = 10_000  # of jobs, which anybody can start and cancel; some 40 MB
MAX_RECORD_BYTES = MIB  # of a job or a result: some hundred times the usual
MAX_RESULT_BYTES = 256 * MIB  # a little more than all pixels of the largest result


@dataclass(frozen=True)
class ResultStore:
    """The folder of results. A name has 128 random bits, so it can neither collide nor be guessed.

    Only files that carry such a name are ever served or removed: an operator's own files in the folder are left alone.
    """

    folder: Path
    retention_seconds: float
    max_bytes: int
    max_records: int = MAX_RECORDS
    name_prefix: str = ""  # of the results that are saved here

    @classmethod
    def of(cls, settings: Settings) -> ResultStore:
        """That of a service with these settings."""
        folder, seconds, max_bytes = settings.output_dir, settings.retention_seconds, settings.output_max_bytes
        return cls(folder, seconds, max_bytes, name_prefix=settings.name_prefix)

    def save(self, data: bytes, extension: str) -> Path:
        """Write a result whole or not at all, and return its absolute path.

        Raises:
            OSError: the disk is full, the folder cannot be written, …; nothing is left behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.resolve() / f"{self.name_prefix}{secrets.token_hex(16)}.{extension}"
        write_atomically(path, data, unfinished=path.with_suffix(".part"))
        return path

    def check_writable(self) -> None:
        """Try what `save` will do.

        Raises:
            OSError: it will fail.
        """
        self.save(b"", "png").unlink()

    def find(self, name: str) -> Path:
        """The path of a result.

        Raises:
            FileNotFound: there is none of that name, or the name is not one that `save` gives.
        """
        path = self.folder / name
        if not _RESULT_NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise FileNotFound("There is no such file: results are removed after a while.")
        return path

    def sweep(self, now: float) -> int:
        """Remove results, records and requests of jobs, older than the retention, then the oldest beyond size and number.

        Args:
            now: in epoch seconds.

        Returns:
            How many were removed. What a process that was killed left half-written goes with them after an hour.
        """
        removed, total_bytes, records = 0, 0, 0
        for path, status in sorted(self._files(), key=lambda entry: entry[1].st_mtime, reverse=True):
            is_partial = path.suffix in _PARTIAL
            total_bytes += 0 if is_partial else status.st_size
            is_record = bool(_JOB_RECORD.fullmatch(path.name))
            records += is_record
            limit = _PARTIAL_SECONDS if is_partial else self.retention_seconds
            too_many = total_bytes > self.max_bytes or (records > self.max_records and is_record)
            if now - status.st_mtime > limit or (too_many and not is_partial):
                try:
                    path.unlink(missing_ok=True)
                    removed += 1
                except OSError as exc:  # of another user, perhaps: the others go all the same
                    logger.error("an old file in %s cannot be removed: %s", self.folder, exc.strerror)  # its name is secret
        return removed

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in (*self.folder.glob("*"), *self.folder.glob(f"{UNFINISHED}/*")):
            if (_OWN_NAME if path.parent == self.folder else _UNFINISHED_NAME).fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process may sweep the same folder
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield path, status


_RESULT_NAME = re.compile(r"(?:[A-Za-z0-9]{1,16}-)?[0-9a-f]{32}\.(?:jpg|png|webp)", re.ASCII)
_OWN_NAME = re.compile(
    rf"{_RESULT_NAME.pattern}|(?:[A-Za-z0-9]{{1,16}}-)?[0-9a-f]{{32}}\.part|(?:[0-9a-f]{{32}}){{1,2}}\.json", re.ASCII
)
_JOB_RECORD = re.compile(r"[0-9a-f]{32}\.json", re.ASCII)
_UNFINISHED_NAME = re.compile(r"[0-9a-f]{32}\.(?:request|cancel|states|part)", re.ASCII)
_PARTIAL = (".part", ".cancel", ".states")  # what is of no use any more an hour after it was written
_PARTIAL_SECONDS = 60 * 60
