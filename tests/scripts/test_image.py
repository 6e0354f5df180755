"""What the Docker image is made of."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from bench.server import ROOT
from core.config import Settings
from model_utility import Models
from schemas.health import ServiceState
from tests.helpers import HANG_SECONDS, fake_models, serving, until, with_settings

DOCKERFILE = (ROOT / "Dockerfile").read_text()
NOT_IN_IT = re.compile(
    r"(tests|bench|deploy|docs|samples|\.github|\.ci)/.*|.*\.(md|toml|yaml|lock)|Makefile|Dockerfile|requirements\.txt"
    r"|LICENSE|\.(gitignore|dockerignore|gitattributes|editorconfig)|weights/.*"
)


def test_every_file_that_the_service_needs_is_in_it() -> None:
    """A new kind of file must be let in by .dockerignore, whose patterns are docker's: `*` stays within a folder."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    patterns = [re.compile(re.escape(line[1:]).replace(r"\*", "[^/]*") + "(/.*)?") for line in lines]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()  # noqa: S607
    needed = [file for file in tracked if not NOT_IN_IT.fullmatch(file)]
    assert "models/engines/conv3x3.cu" in needed
    assert [file for file in needed if not any(pattern.fullmatch(file) for pattern in patterns)] == []


def test_its_opencv_is_that_of_every_other_place() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'"opencv-python==(.*?)"', text) == re.findall(r'"opencv-python-headless==(.*?)"', text) != []


def test_it_makes_no_volume_of_its_own() -> None:
    """Each run would leave one behind, with a copy of the weights that the image holds."""
    assert not re.search("^VOLUME", DOCKERFILE, re.MULTILINE)


async def check_health(**environ: str) -> tuple[int | None, str]:
    """The exit status of the health check, and what it says."""
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    program, *arguments = json.loads(command)
    assert program == "python"
    inherited = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT")}
    check = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, env={**inherited, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await check.communicate()
    return check.returncode, output.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", ""])  # noqa: S104
async def test_its_health_check_asks_where_the_service_listens(settings: Settings, host: str) -> None:
    loaded = threading.Event()

    def load(_: Settings) -> Models:
        assert loaded.wait(HANG_SECONDS)
        return fake_models()

    asked = {"HOST": host, "PORT": f" {settings.port} ", "http_proxy": "http://127.0.0.1:9"}
    async with serving(with_settings(settings, host=host or Settings().host), load) as (_, service):
        status, said = await check_health(**asked)
        assert (status, said.endswith(f":{settings.port}/health: 503\n")) == (1, True)
        loaded.set()
        await until(lambda: service.state != ServiceState.STARTING)
        assert (await check_health(**asked))[0] == 0


async def test_its_health_check_takes_an_empty_port_for_the_default() -> None:
    _, said = await check_health(HOST="127.0.0.9", PORT="")
    assert said == "http://127.0.0.9:10005/health: [Errno 111] Connection refused\n"
