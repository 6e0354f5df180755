"""Results by their content: the same picture, with the same parameters and models, is made once.

Beside each result lies a record, named by a hash of all that its bytes depend on, with the result's random name in it: the
input alone does not reveal the name. A record is written after its file and read with it; age removes both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from core.config import VERSION, OutputFormat
from core.errors import FileNotFound
from imaging.picture import Picture
from schemas.params import UpscaleParams
from schemas.response import UpscaleMetadata, UpscaleResult
from storage.result_store import MAX_RECORD_BYTES, MAX_RESULT_BYTES, ResultStore
from utility import read_regular, write_atomically

logger = logging.getLogger(__name__)


def cache_key(picture: Picture, params: UpscaleParams, output_format: OutputFormat, identity: str) -> str:
    """The SHA-256, in hexadecimal, of all that a result's bytes depend on: pixels, parameters, models, this version.

    `identity` is that of the models and their device.
    """
    planes = [plane for plane in (picture.pixels, picture.alpha) if plane is not None]
    chosen = {**params.model_dump(exclude={"webhook"}), "output_format": output_format}
    profile = (picture.icc_profile or b"") + (picture.cicp or b"")
    head = [VERSION, identity, chosen, [(*plane.shape, plane.itemsize) for plane in planes], len(profile), bool(picture.cicp)]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\0" + profile)
    for plane in planes:
        digest.update(plane.data)
    return digest.hexdigest()


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    name: str  # of the result's file
    sha256: str
    metadata: UpscaleMetadata


@dataclass(frozen=True)
class ResultCache:
    """Finds in the folder of results what is there already."""

    store: ResultStore

    def save(self, key: str, data: bytes, extension: str, metadata: UpscaleMetadata) -> Path:
        """Write a result and its record; return the result's path.

        Raises:
            OSError: the disk would not have one of them; neither is left.
        """
        path = self.store.save(data, extension)
        record = _Record(name=path.name, sha256=hashlib.sha256(data).hexdigest(), metadata=metadata)
        record_path = path.with_name(f"{key}.json")
        try:
            write_atomically(record_path, record.model_dump_json().encode(), unfinished=path.with_suffix(".part"))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def find(self, key: str) -> UpscaleResult | None:
        """The result of that key, if it is there whole; a damaged one is none.

        A result that is asked for again is as young as a new one.
        """
        record_path = self.store.folder / f"{key}.json"
        try:
            record = _Record.model_validate_json(read_regular(record_path, MAX_RECORD_BYTES))
            path = self.store.find(record.name).resolve()
            data = read_regular(path, MAX_RESULT_BYTES)
        except (FileNotFoundError, FileNotFound):
            return None
        except (OSError, ValidationError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else f"{exc.error_count()} fields of its record are wrong"
            logger.warning("a cached result cannot be read, and is made again: %s", reason)
            return None
        if hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        with contextlib.suppress(OSError):  # another user's, in a shared folder, keeps its age
            os.utime(path)
            os.utime(record_path)
        return UpscaleResult(record.metadata, str(path))
