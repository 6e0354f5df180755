"""What the Docker image is made of."""

from __future__ import annotations

import re
import subprocess

from bench.server import ROOT

NOT_IN_IT = re.compile(
    r"(tests|bench|docs|samples|\.github|\.ci)/.*|.*\.(md|toml|yaml|lock)|Makefile|Dockerfile|requirements\.txt"
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
