"""The examples of the documents run as they stand there, against the service with a fake model."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from bench.server import ROOT
from tests.docs.documents import README, code_blocks, name_of

SERVER = "http://localhost:10005"
TOOLS = {"sh": "bash", "python": sys.executable, "javascript": "node"}
EXAMPLES = [
    (f"{name_of(path)}-{language}-{number}", language, example)
    for path in (README, *(ROOT / "docs" / f"{name}.md" for name in ("api", "clients", "jobs", "plans")))
    for language in TOOLS
    for number, example in enumerate(code_blocks(path.read_text(encoding="utf-8"), language))
    if SERVER in example
]


def parametrized(examples: list[tuple[str, str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("language", "example"), [pytest.param(*rest, id=name) for name, *rest in examples])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A current folder in which the sample is where the examples expect it."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    return tmp_path


@parametrized(EXAMPLES)
async def test_an_example_works(language: str, example: str, client: httpx.AsyncClient, folder: Path) -> None:
    status, output = await run(language, example.replace(SERVER, str(client.base_url).rstrip("/")), folder)

    assert status == 0, output
    if result := re.search(r"larger\.(?:jpg|webp)", example):
        with Image.open(folder / result[0]) as image:
            assert image.size == (1920, 1200)


@parametrized([each for each in EXAMPLES if "larger.jpg" in each[2]])
async def test_an_error_does_not_end_up_in_the_result(
    language: str, example: str, client: httpx.AsyncClient, folder: Path
) -> None:
    wrong = example.replace("=2k", "=3k").replace('"2k"', '"3k"')
    assert wrong != example

    _, output = await run(language, wrong.replace(SERVER, str(client.base_url).rstrip("/")), folder)

    assert "target_resolution must be one of 2k, 4k, 8k" in output
    assert not (folder / "larger.jpg").exists()


async def run(language: str, example: str, folder: Path) -> tuple[int, str]:
    """Exit status and output of an example, in that folder."""
    tool = shutil.which(TOOLS[language])
    if tool is None or (language == "sh" and shutil.which("curl") is None):
        pytest.skip(f"there is no {TOOLS[language]} or no curl here")
    script = folder / f"example.{'mjs' if language == 'javascript' else language}"
    script.write_text(example, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        tool, script.name, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()
