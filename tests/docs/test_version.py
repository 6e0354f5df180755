"""The version is the same wherever it is written down: the newest release of CHANGELOG.md."""

from __future__ import annotations

import re
import tomllib

from bench.server import ROOT
from core.config import VERSION


def test_everything_has_the_version_of_the_newest_release() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    releases = [heading for heading in headings if heading != "Unreleased"]
    assert headings[-len(releases) :] == releases, "what is not released comes first"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading) for heading in releases)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]}
    images = re.findall(r"upscale-ray:(\S+)", (ROOT / "deploy" / "kubernetes" / "rayservice.yaml").read_text(encoding="utf-8"))
    assert images
    versions = {releases[0].partition(" ")[0], project["version"], locked[project["name"]]["version"], *images}
    assert versions == {VERSION}
