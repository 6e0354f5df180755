"""openapi-typescript (https://openapi-ts.dev): its types fit what is sent, in the eyes of tsc, and what comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bench.server import ROOT, Server
from tests.clients.conftest import run
from tests.docs.documents import code_blocks, page
from tests.docs.test_examples import SERVER
from tests.helpers import encode, sample_crop

HERE = Path(__file__).parent
STRICT = ("--strict", "--noUncheckedIndexedAccess", "--noEmit", "--module", "nodenext", "--allowImportingTsExtensions")
GENERATE = next(block for block in code_blocks(page("clients"), "sh") if "openapi-typescript" in block)
(USE,) = code_blocks(page("clients"), "typescript")


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the packages of npm and the types in it, made by the command of the document."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "package-lock.json", "use.ts"):
        shutil.copy(HERE / name, folder)
    (folder / "samples").symlink_to(ROOT / "samples")
    (folder / "photo.png").write_bytes(encode(sample_crop(40, 30)))
    (folder / "example.ts").write_text(USE.replace(SERVER, server.url))
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    assert "⚠" not in run(folder, *GENERATE.replace(SERVER, server.url).split())
    return folder


def test_the_types_fit_in_the_eyes_of_tsc(folder: Path) -> None:
    run(folder, "npx", "tsc", *STRICT, "use.ts", "example.ts")


def test_tsc_sees_what_is_wrong(folder: Path) -> None:
    (folder / "wrong.ts").write_text((folder / "use.ts").read_text().replace("scale: 2,", "scale: '2',"))
    with pytest.raises(AssertionError, match=r"TS2\d\d\d"):
        run(folder, "npx", "tsc", *STRICT, "wrong.ts")


def test_every_kind_of_request_works(server: Server, folder: Path) -> None:
    run(folder, "node", "use.ts", server.url)


def test_the_example_of_the_document_works(folder: Path) -> None:
    run(folder, "node", "example.ts")
    with Image.open(folder / "larger.jpg") as image:
        assert image.size == (1920, 1200)


def test_an_error_does_not_end_up_in_the_result(folder: Path) -> None:
    (folder / "larger.jpg").unlink(missing_ok=True)
    (folder / "bad.ts").write_text((folder / "example.ts").read_text().replace("'2k'", "'3k'"))
    with pytest.raises(AssertionError, match="target_resolution must be one of 2k, 4k, 8k"):
        run(folder, "node", "bad.ts")
    assert not (folder / "larger.jpg").exists()


def test_the_packages_come_from_the_public_registry() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    sources = [package["resolved"] for name, package in packages.items() if name]
    assert [source for source in sources if not source.startswith("https://registry.npmjs.org/")] == []
