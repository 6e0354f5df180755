"""What the documents say of fields, settings, errors, limits, weights and modules is true; every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypercorn.config import Config

import utility
from api import forms, middleware, server
from api.access import MAX_KEYS_BYTES
from api.openapi import build_document
from api.responses import RESULT_HEADERS
from bench.server import ROOT
from core import errors
from core.config import GIB, MAX_BODY_BYTES, MAX_IMAGE_BYTES, MAX_PATH_CHARACTERS, MAX_PIXELS, MIB, Settings
from core.errors import ImageTooLarge, JobCancelled, ServiceError, Unavailable
from imaging import formats, sanitize
from imaging.containers import bitstream, exif, gif, heif, tiff
from outbound import public_network, webhooks
from schemas import json_body, request
from schemas.plan import Size, plan_upscale
from schemas.request import FIELDS
from scripts.tables import fields_table, settings_table
from serving import decoding, dispatcher
from serving.jobs.runner import MAX_DEATHS
from storage import result_store, unfinished
from tests.docs.documents import PAGES, README, anchors, code, first_cells, name_of, page, relative_links, section
from weights.manifest import WeightFile, read_manifest
from workers.ray_client import SILENCE_SECONDS

DEFAULTS = Settings()
MAX_README_LINES = 150
MAX_PAGE_LINES = 200
LAYERED_FOLDERS = ["api", "serving", "storage", "outbound", "schemas", "imaging", "models", "core", "weights", "workers"]
LAYERED_FOLDERS += ["command"]


def weights_row(file: WeightFile) -> str:
    return f"| `{file.name}` | {file.purpose} | {file.without} | {file.license} |"


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    assert settings_table() in page("configuration")


def test_the_table_of_weights_is_that_of_the_manifest() -> None:
    assert "\n".join(weights_row(file) for file in read_manifest().values()) in page("models")


def test_every_error_is_in_the_page_of_the_api_and_in_the_tree() -> None:
    classes = [member for member in vars(errors).values() if isinstance(member, type) and issubclass(member, ServiceError)]
    leaves = [error for error in classes if not error.__subclasses__() and error is not JobCancelled]
    assert len(leaves) > 15
    documented = section(page("api"), "Errors")
    for error in leaves:
        row = re.search(rf"^\| [\d, ]*\b{error.status}\b[\d, ]* \|.*$", documented, re.MULTILINE)
        assert row, error
        assert f"`{error.code}`" in row[0], error
        assert f" {error.__name__}" in (errors.__doc__ or ""), error
        assert issubclass(error, Unavailable) == (error.status == 503)


def test_the_table_of_fields_is_that_of_the_contract() -> None:
    assert fields_table() in README.read_text(encoding="utf-8")


def test_every_field_and_every_header_is_in_the_page_of_the_api() -> None:
    for name in FIELDS:
        assert f"| `{name}` |" in section(page("api"), "Request fields")
    for name in RESULT_HEADERS:
        assert f"| `X-Upscale-{name}` |" in section(page("api"), "Raw responses")


def response_fields(method: str, path: str) -> set[str]:
    """The names of the fields of the JSON response to a request that succeeds."""
    document = build_document()
    schema: dict[str, Any] = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(schema["properties"])


@pytest.mark.parametrize(
    ("method", "path", "document", "heading"),
    [
        ("post", "/upscale", "api", "Response fields"),
        ("post", "/plan", "plans", "POST /plan"),
        ("get", "/health", "api", "GET /health"),
        ("get", "/jobs/{id}", "jobs", "Job object"),
    ],
)
def test_the_fields_of_a_response_are_those_of_its_schema(method: str, path: str, document: str, heading: str) -> None:
    documented = first_cells(section(page(document), heading))
    assert len(documented) == len(set(documented))
    assert set(documented) == response_fields(method, path)


LIMITS = {
    "head of an HTTP request": f"{Config.h11_max_incomplete_size // 1024} KiB",
    "body of a request": f"{MAX_BODY_BYTES // MIB} MiB",
    "bodies of all requests together": f"{DEFAULTS.bodies_max_bytes // MIB} MiB (`BODIES_MAX_BYTES`)",
    "time of a request": f"{DEFAULTS.request_timeout_seconds:g} s (`REQUEST_TIMEOUT_SECONDS`)",
    "time for a body to arrive": f"{DEFAULTS.body_timeout_seconds:g} s (`BODY_TIMEOUT_SECONDS`)",
    "time without progress of a response": f"{server.STALL_SECONDS:g} s",
    "time of an idle connection, and for a head to arrive": f"{server.KEEP_ALIVE_SECONDS:g} s",
    "commas in a JSON body": f"{json_body.MAX_COMMAS:,}",
    "body beside the image, of JSON or of a form": f"{json_body.MAX_OTHER_BYTES // MIB} MiB",
    "parts of a form; head of a part": f"{forms.MAX_PARTS}; {forms.MAX_HEAD_BYTES // 1024} KiB",
    "characters kept of a part that is no image": f"{json_body.SHOWN_CHARACTERS:,}",
    "file of API keys": f"{MAX_KEYS_BYTES // 1024} KiB, a regular file or a link to one",
    "path in `X-Forwarded-Prefix`": f"{MAX_PATH_CHARACTERS} characters",
    "unknown fields listed in a response": str(request.MAX_NAMED_FIELDS),
    "image file": f"{MAX_IMAGE_BYTES // MIB} MiB",
    "pixels of an image": f"{MAX_PIXELS:,}",
    "frames": "1",
    "colour profile, unpacked": f"{sanitize.MAX_PROFILE_BYTES // MIB} MiB",
    "chunks of a PNG": f"{sanitize.MAX_PNG_CHUNKS:,}",
    "text chunks of a PNG that are unpacked": "0",
    "scans of a JPEG": str(sanitize.MAX_JPEG_SCANS),
    "segments of a JPEG": f"{sanitize.MAX_JPEG_SEGMENTS:,}",
    "EXIF entries looked at": f"{formats.MAX_EXIF_ENTRIES:,}",
    "EXIF tags read": "1 (the orientation)",
    "EXIF that goes out again: entries; bytes with XMP": f"{exif.MAX_ENTRIES:,}; {exif.MAX_METADATA_BYTES // 1024} KiB",
    "pages looked for in a TIFF": f"{tiff.MAX_PAGES:,}",
    "entries of a TIFF's directory": f"{tiff.MAX_ENTRIES:,}",
    "strips or tiles of a TIFF": f"{tiff.MAX_PIECES:,}, together no larger than the file",
    "samples of a TIFF's pixel": str(tiff.MAX_SAMPLES),
    "side of a TIFF's tile beyond the image's": f"{tiff.MAX_TILE_PX:,}",
    "items of an AVIF or HEIC": f"{heif.MAX_ITEMS:,}, of {heif.MAX_PARTS:,} parts",
    "boxes of an AVIF or HEIC": f"{heif.MAX_BOXES:,} in one",
    "bytes read of an AVIF's or HEIC's items": "twice the file's",
    "coded pixels of AV1 and HEVC beyond the image's": f"{heif.PADDING_PX} a side",
    "pictures in one item of AV1; of HEVC": f"{heif.MAX_FRAMES}; 1",
    "units of one stream of AV1 or HEVC": f"{bitstream.MAX_UNITS:,}",
    "threads of an AVIF's or HEIC's decoder": "1",
    "blocks of a GIF": f"{gif.MAX_BLOCKS:,}",
    "beginning in which a data URL's comma is looked for": f"{utility.MAX_PREFIX_BYTES:,} bytes",
    "waiting requests": f"{DEFAULTS.queue_limit} (`QUEUE_LIMIT`)",
    "pictures in memory": f"{decoding.MAX_BYTES // GIB} GiB",
    f"large pictures (over {decoding.LARGE_PIXELS:,} pixels) that are decoded": str(decoding.LANES[True]),
    "pictures that wait to be decoded": f"{decoding.MAX_WAITING[True]} large, {decoding.MAX_WAITING[False]} others",
    "pictures kept for other formats": f"{dispatcher.KEPT_BYTES // MIB} MiB for {dispatcher.KEPT_SECONDS:g} s, "
    f"a {dispatcher.KEPT_SHARE}th of a memory limit",
    "results that are encoded and saved at once": str(dispatcher.ENCODERS),
    "connections": f"by `ulimit -n`: {(1024 - utility.OTHER_FILES - utility.MAX_JOBS) // 2} at 1024",
    "requests that wait, of all connections": f"{100 * middleware.WAITING_SHARE:g} %",
    "bytes of the next requests, before a response": f"{server.MAX_AHEAD_BYTES // 1024} KiB",
    "HTTP": "1.0 and 1.1",
    "silence of a worker on another machine": f"{SILENCE_SECONDS:.0f} s",
    "unfinished jobs": f"{utility.MAX_JOBS}, fewer below `ulimit -n` {4 * utility.MAX_JOBS + utility.OTHER_FILES}",
    "record of a job or a result": f"{result_store.MAX_RECORD_BYTES // MIB} MiB",
    "result that the cache reads": f"{result_store.MAX_RESULT_BYTES // MIB} MiB",
    "records of jobs": f"{result_store.MAX_RECORDS:,}",
    "kept request of an unfinished job": f"its body and {unfinished.MAX_HEAD_BYTES // MIB} MiB; counts as a result",
    "instances that may die with a job": f"{MAX_DEATHS}, then the job ends",
    "concurrent DNS lookups for webhooks": str(public_network.MAX_LOOKUPS),
    "undelivered webhooks": f"{webhooks.MAX_PENDING:,}",
    "concurrent webhook calls": str(webhooks.MAX_AT_ONCE),
    "… to hosts that answered the last call; that nobody has called yet; that did not answer": "; ".join(
        str(kind.value) for kind in webhooks.Kind
    ),
    "time of the first webhook call to a host; of others": f"{webhooks.FIRST_SECONDS:g} s; {webhooks.ATTEMPT_SECONDS:g} s",
    "… to one network (IPv4 /24, IPv6 /48)": str(webhooks.MAX_TO_NETWORK),
    "… to one host and port": f"{webhooks.MAX_TO_HOST}, and 1 after it did not answer",
    "folder of results": f"{DEFAULTS.output_max_bytes // GIB} GiB (`OUTPUT_MAX_BYTES`)",
}


def test_the_table_of_limits_has_the_values_of_the_code() -> None:
    limits = section(page("security"), "Limits")
    assert dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", limits, re.MULTILINE)[1:]) == LIMITS


def test_the_limits_in_the_readme_are_those_of_the_table() -> None:
    limits = section(README.read_text(encoding="utf-8"), "Size rules and limits")
    for name in ("image file", "pixels of an image", "body of a request"):
        assert LIMITS[name] in limits


def test_the_table_of_output_sizes_is_what_is_planned() -> None:
    table = section(page("images"), "Output size")
    rows = re.findall(r"^\| (\d+)×(\d+) \| (\wk) \| ([\d, ]*) ?\| (\S+) \|$", table, re.MULTILINE)
    assert len(rows) > 5
    for width, height, target, passes, output in rows:
        try:
            plan = plan_upscale(Size(int(width), int(height)), target)
        except ImageTooLarge:
            assert (passes, output) == ("", "refused")
        else:
            assert (", ".join(map(str, plan.passes)), str(plan.output)) == (passes.strip(), output)


def test_every_module_is_in_the_page_of_the_architecture() -> None:
    files = [*ROOT.glob("*.py"), *(file for folder in LAYERED_FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    modules = {name_of(file.with_suffix("")) for file in files if file.stem != "__init__"}
    documented = first_cells(section(page("architecture"), "Modules"))
    assert len(documented) == len(set(documented))
    assert set(documented) == modules


def test_the_documents_are_short() -> None:
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PAGES}
    assert lines["README.md"] <= MAX_README_LINES
    assert {name: count for name, count in lines.items() if name.startswith("docs/") and count > MAX_PAGE_LINES} == {}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_to_a_heading_in_it(path: Path) -> None:
    for link in relative_links(path.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in relative_links(README.read_text(encoding="utf-8"))}
    assert {name_of(path) for path in PAGES} <= linked | {"README.md"}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_target_of_make_and_every_module_that_is_named_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = code(path.read_text(encoding="utf-8"))
    for target in re.findall(r"\bmake (?:[A-Z_]+=\S+ )*([a-z][a-z-]*)", commands):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for module in re.findall(r"\bpython -m (bench[\w.]*|weights[\w.]*)", commands):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
    for script in re.findall(r"\bpython (\w+\.py)", commands):
        assert (ROOT / script).is_file(), script
