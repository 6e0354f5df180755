"""What is installed is what the requirements files pin, all of it; the hook that lets basicsr build does so on this Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
NODEPS = ROOT / "requirements" / "nodeps.txt"
RESOLVED = [ROOT / "requirements.txt", ROOT / "requirements" / "dev.txt"]
PINNED_BY_TORCH = ("nvidia-", "cuda-toolkit")


def pinned_versions(*files: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(name): version for name, version in pairs}


def brought_along(names: Iterable[str], extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """What pip installs for these packages, the packages themselves left out."""
    for name in names:
        for line in requires(name) or []:
            wanted = Requirement(line)
            if not wanted.marker or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                yield canonicalize_name(wanted.name)
                yield from brought_along([wanted.name], frozenset(wanted.extras))


def test_everything_that_comes_along_is_pinned() -> None:
    pinned = pinned_versions(*RESOLVED, CONSTRAINTS)
    coming = {name for name in brought_along(pinned_versions(*RESOLVED)) if not name.startswith(PINNED_BY_TORCH)}

    assert coming <= pinned.keys()


def test_every_pinned_package_is_installed() -> None:
    pinned = pinned_versions(*RESOLVED, NODEPS, CONSTRAINTS)

    assert {name: version(name) for name in pinned} == pinned


def stated_license(name: str) -> str:
    """What a package's metadata says, in one line."""
    about = metadata(name)
    stated = about["License-Expression"] or about["License"] or ""
    if stated and "\n" not in stated:
        return stated
    classifiers = about.get_all("Classifier") or []
    return ", ".join(text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License"))


@pytest.mark.parametrize("name", pinned_versions(RESOLVED[0], NODEPS))
def test_third_party_names_every_package_of_the_service_with_its_license(name: str) -> None:
    rows = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.lower().startswith(f"| {name} |")]
    assert row.split("|")[2].strip().startswith(stated_license(name)), stated_license(name)


def test_third_party_names_every_tool_of_the_tests() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    assert [name for name in pinned_versions(RESOLVED[1]) if name not in text] == []


def test_setup_hook_lets_exec_write_into_the_function_that_calls_it() -> None:
    as_in_setup_py = "def version():\n    exec('number = 7')\n    return locals()['number']\nprint(version())"

    done = subprocess.run(  # noqa: S603 - our own interpreter and line
        [sys.executable, "-c", as_in_setup_py],
        env={**os.environ, "PYTHONPATH": str(ROOT / "requirements" / "setup_hook")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "7\n"
