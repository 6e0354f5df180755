"""Results by their content: the same picture, asked for in the same way, of the same networks, is made once.

Beside each result lies a record, named by a hash of all that its bytes depend on, with the result's random name in it: who has
the input only cannot guess the name. A record is written after its file and read with it; age removes both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from core.config import VERSION
from core.errors import FileNotFound
from imaging.picture import Picture
from schemas.request import Order
from utility import ResultStore, write_whole

# Of an order: the pixels stand for the first two, nothing depends on the others.
_NOT_IN_KEY = ("image", "header", "warnings", "webhook")


def key_of(picture: Picture, order: Order, networks: str) -> str:
    """The SHA-256, in hexadecimal, of all that a result's bytes depend on: pixels, parameters, networks, this version."""
    planes = [plane for plane in (picture.pixels, picture.alpha) if plane is not None]
    parameters = {field.name: getattr(order, field.name) for field in fields(order) if field.name not in _NOT_IN_KEY}
    profile = picture.icc_profile or b""
    head = [VERSION, networks, parameters, [plane.shape for plane in planes], len(profile)]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\0" + profile)
    for plane in planes:
        digest.update(plane.data)
    return digest.hexdigest()


@dataclass(frozen=True)
class ResultCache:
    """Finds in the folder of results what has been made before."""

    store: ResultStore

    def keep(self, key: str, data: bytes, extension: str, told: dict[str, object]) -> Path:
        """Write a result and its record, `told` being what the response says of it besides; return the result's path.

        Raises:
            OSError: the disk would not have one of them; neither is left.
        """
        path = self.store.save(data, extension)
        record = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "told": told}
        record_path = path.with_name(f"{key}.json")
        try:
            write_whole(record_path, json.dumps(record).encode(), unfinished=path.with_suffix(".part"))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def find(self, key: str) -> tuple[Path, bytes, dict[str, Any]] | None:
        """Path and bytes of a result and what is told of it, if it is there whole; a damaged one is none.

        What is asked for again is as young as what is new.
        """
        record_path = self.store.folder / f"{key}.json"
        try:
            record = json.loads(record_path.read_bytes())
            name, sha256, told = record["name"], record["sha256"], record["told"]
            path = self.store.find(name).resolve()
            data = path.read_bytes()
        except (OSError, ValueError, KeyError, TypeError, FileNotFound):
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        with contextlib.suppress(OSError):  # another user's, in a shared folder, keeps its age
            os.utime(path)
            os.utime(record_path)
        return path, data, told
