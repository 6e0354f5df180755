"""What the README says of variables, weights, errors and fields is what the code does."""

from __future__ import annotations

import re

from hypercorn.config import Config

import app
from api.responses import RESULT_HEADERS
from bench.server import ROOT
from core import errors
from core.config import GIB, MAX_BODY_BYTES, MAX_IMAGE_BYTES, MIB, Settings, settings_table
from core.errors import JobCancelled, ServiceError, Unavailable
from imaging import formats, sanitize
from outbound import webhooks
from schemas import request
from schemas.request import FIELDS, fields_table
from weights.manifest import WeightFile, read_manifest

README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def weights_row(file: WeightFile) -> str:
    return f"| `{file.name}` | {file.purpose} | {file.without} | {file.license} |"


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    assert settings_table() in README


def test_the_table_of_weights_is_that_of_the_manifest() -> None:
    assert "\n".join(weights_row(file) for file in read_manifest().values()) in README


def test_every_error_is_in_the_readme_and_in_the_tree() -> None:
    classes = [member for member in vars(errors).values() if isinstance(member, type) and issubclass(member, ServiceError)]
    leaves = [error for error in classes if not error.__subclasses__() and error is not JobCancelled]
    assert len(leaves) > 15
    for error in leaves:
        assert f"`{error.code}`" in README, error
        assert f" {error.__name__}" in (errors.__doc__ or ""), error
        assert issubclass(error, Unavailable) == (error.status == 503)


def test_the_table_of_fields_is_that_of_the_contract() -> None:
    assert fields_table() in README


def test_every_field_and_every_header_is_in_the_page_of_the_api() -> None:
    for name in [field.name for field in FIELDS]:
        assert f"| `{name}` |" in API
    for name in RESULT_HEADERS:
        assert f"| `X-Upscale-{name}` |" in API


LIMITS = {
    "head of an HTTP request": f"{Config.h11_max_incomplete_size // 1024} KiB",
    "body of a request": f"{MAX_BODY_BYTES // MIB} MiB",
    "bodies of all requests at once": f"{Settings.bodies_max_bytes // MIB} MiB (`BODIES_MAX_BYTES`)",
    "time from a request to its answer": f"{Settings.request_timeout_seconds:g} s (`REQUEST_TIMEOUT_SECONDS`)",
    "time for a body to arrive": f"{Settings.body_timeout_seconds:g} s (`BODY_TIMEOUT_SECONDS`)",
    "time in which a client may take nothing of its answer": f"{app.STALL_SECONDS:g} s",
    "time that a connection may be idle, and for the head of a request to arrive": f"{app.KEEP_ALIVE_SECONDS:g} s",
    "commas in a JSON body": f"{request.MAX_COMMAS:,}",
    "unknown fields that are named": str(request.MAX_NAMED_FIELDS),
    "image file": f"{MAX_IMAGE_BYTES // MIB} MiB",
    "pixels of an image": f"{formats.MAX_PIXELS:,}",
    "frames": "1",
    "colour profile, unpacked": f"{sanitize.MAX_PROFILE_BYTES // MIB} MiB",
    "chunks of a PNG": f"{sanitize.MAX_PNG_CHUNKS:,}",
    "text chunks of a PNG that are unpacked": "0",
    "scans of a JPEG": str(sanitize.MAX_JPEG_SCANS),
    "segments of a JPEG": f"{sanitize.MAX_JPEG_SEGMENTS:,}",
    "tags of EXIF that are read": "1 (the orientation)",
    "runs (RLE) in a BMP": "0",
    "requests that wait": f"{Settings.queue_limit} (`QUEUE_LIMIT`)",
    "names of webhooks looked up at once": str(webhooks.MAX_LOOKUPS),
    "folder of results": f"{Settings.output_max_bytes // GIB} GiB (`OUTPUT_MAX_BYTES`)",
}


def limits_in_the_readme() -> dict[str, str]:
    section = README.partition("\n## Limits\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)[1:])


def test_the_table_of_limits_has_the_values_of_the_code() -> None:
    assert limits_in_the_readme() == LIMITS
