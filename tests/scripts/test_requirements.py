"""The lock is what pyproject.toml asks for and what is installed; the hook that lets basicsr build does so on this Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from core.config import VERSION

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
SERVICE = [Requirement(line).name for line in PYPROJECT["project"]["dependencies"]]
TOOLS = [Requirement(line).name for group in PYPROJECT["dependency-groups"].values() for line in group]


def uv(*arguments: str) -> str:
    """What uv prints; it asks no network."""
    command = [str(Path(sys.executable).with_name("uv")), "--offline", "--quiet", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603 - the lock's own uv


def exported(*options: str) -> list[str]:
    """The lock's packages as lines of a requirements file."""
    return uv("export", "--frozen", "--no-emit-project", "--no-hashes", "--no-annotate", "--no-header", *options).splitlines()


def test_the_lock_is_of_this_pyproject() -> None:
    uv("lock", "--check")


def test_requirements_txt_is_exported_from_the_lock() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == exported("--no-dev")


def test_what_is_installed_is_what_the_lock_pins() -> None:
    here = [wanted for wanted in map(Requirement, exported()) if not wanted.marker or wanted.marker.evaluate()]
    assert {wanted.name: f"=={version(wanted.name)}" for wanted in here} == {w.name: str(w.specifier) for w in here}


def test_the_lock_names_the_public_index_alone() -> None:
    files = [file for package in LOCK["package"] for file in [*package.get("wheels", []), package.get("sdist")] if file]

    assert {package["source"].get("registry") for package in LOCK["package"]} == {None, "https://pypi.org/simple"}
    assert {file["url"].split("/packages/")[0] for file in files} == {"https://files.pythonhosted.org"}


def test_every_direct_dependency_has_an_exact_version() -> None:
    groups = [PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"].values()]
    assert [line for group in groups for line in group if "==" not in line] == []


def test_the_project_has_the_version_of_the_service() -> None:
    assert PYPROJECT["project"]["version"] == VERSION


def stated_license(name: str) -> str:
    """What a package's metadata says, in one line."""
    about = metadata(name)
    stated: str = (about.get_all("License-Expression") or about.get_all("License") or [""])[0]
    if stated and "\n" not in stated:
        return stated
    classifiers = about.get_all("Classifier") or []
    return ", ".join(text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License"))


@pytest.mark.parametrize("name", SERVICE)
def test_third_party_names_every_package_of_the_service_with_its_license(name: str) -> None:
    rows = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.startswith(f"| {name} |")]
    assert row.split("|")[2].strip().startswith(stated_license(name)), stated_license(name)


def test_third_party_names_every_tool_of_development() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    assert [name for name in TOOLS if name not in text] == []


def test_setup_hook_lets_exec_write_into_the_function_that_calls_it() -> None:
    as_in_setup_py = "def version():\n    exec('number = 7')\n    return locals()['number']\nprint(version())"

    done = subprocess.run(  # noqa: S603 - our own interpreter and line
        [sys.executable, "-c", as_in_setup_py],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts" / "setup_hook")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "7\n"
