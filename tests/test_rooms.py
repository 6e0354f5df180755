"""Which room may import which: read from the sources, at any depth of a module."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each room, and the rooms that it may import; a name that is not here may be imported by nobody.
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "errors": set(),
    "containers": {"config", "errors"},
    "images": {"config", "errors", "containers"},
    "logs": set(),
    "stopwatch": set(),
    "metrics": {"config"},
    "utility": {"config", "errors", "logs"},
    "contract": {"config", "errors", "images", "utility"},
    "weights.manifest": set(),
    "weights.download": set(),
    "weights.convert": set(),
    "weights.fetch": {"config", "weights.manifest", "weights.download", "weights.convert"},
    "model_utility": {"config"},
    "faces": {"model_utility"},
    "upscale": {"stopwatch", "config", "errors", "images", "weights.manifest", "faces", "model_utility"},
    "heartbeat": {"config"},
    "deadline": {"errors"},
    "device_queue": {"errors"},
    "cache": {"config", "errors", "images", "utility", "contract"},
    "dispatch": {"config", "errors", "logs", "images", "utility", "contract", "upscale", "cache", "deadline", "device_queue"}
    | {"metrics", "stopwatch"},
    "service": {"config", "errors", "utility", "contract", "upscale", "heartbeat"}
    | {"cache", "deadline", "device_queue", "dispatch", "metrics"},
    "job_store": {"errors"},
    "webhook": {"config", "errors", "heartbeat"},
    "jobs": {"errors", "logs", "contract", "deadline", "dispatch", "service", "job_store", "webhook"},
    "access": {"config"},
    "connections": set(),
    "edge": {"logs"},
    "bodies": {"config", "contract", "edge", "errors"},
    "schemas": {"config", "contract"},
    "openapi": {"config", "contract", "errors", "schemas", "answers"},
    "api_docs": {"errors", "openapi"},
    "answers": {"config", "errors", "logs", "dispatch"},
    "cli": {"config", "errors", "images", "utility", "contract", "upscale"},
    "pages": {"errors"},
    "job_answers": {"jobs", "answers"},
    "app": {"config", "connections", "errors", "logs", "service", "dispatch", "upscale"}
    | {"access", "metrics", "deadline", "edge", "bodies", "answers", "jobs", "pages", "job_answers", "api_docs"},
}
# Heavy or all-embracing packages, and the only rooms that know them.
ONLY_IN = {
    "torch": {"model_utility", "faces", "weights.convert"},
    "torchvision": {"model_utility", "faces"},
    "basicsr": {"model_utility", "faces"},
    "facexlib": {"faces"},
    "gfpgan": {"faces"},
    "prometheus_client": {"metrics"},
    "quart": {"pages", "app", "bodies", "api_docs", "answers", "job_answers"},
    "hypercorn": {"app", "connections", "edge"},
    "werkzeug": {"bodies", "answers", "job_answers"},
    "httpcore": {"webhook"},
    "httpx": {"heartbeat", "webhook", "weights.fetch", "weights.download"},
    "PIL": {"containers", "images", "upscale"},
}
LAZY = {("upscale", "faces"), ("upscale", "model_utility"), ("weights.fetch", "weights.convert")}  # not before torch is needed


def source_of(room: str) -> Path:
    return ROOT / (room.replace(".", "/") + ".py")


def imports_of(nodes: list[ast.stmt]) -> set[str]:
    """The modules imported by these statements and all that is in them, but for type checkers and for a room that is run."""
    found: set[str] = set()
    for statement in nodes:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module}
    return found


def all_imports(room: str) -> set[str]:
    return imports_of(ast.parse(source_of(room).read_text()).body)


def test_every_room_is_in_the_plan() -> None:
    files = [*ROOT.glob("*.py"), *(ROOT / "weights").glob("*.py")]
    rooms = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert rooms - {"weights.__init__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    assert all_imports(room) & set(MAY_IMPORT) <= MAY_IMPORT[room]


def test_the_plan_has_no_circle() -> None:
    below: set[str] = set()
    while len(below) < len(MAY_IMPORT):
        next_ones = {room for room, imported in MAY_IMPORT.items() if imported <= below} - below
        assert next_ones, set(MAY_IMPORT) - below
        below |= next_ones


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_known_to_its_rooms_alone(package: str) -> None:
    users = {room for room in MAY_IMPORT if package in {name.partition(".")[0] for name in all_imports(room)}}
    assert users <= ONLY_IN[package]


@pytest.mark.parametrize(("room", "imported"), sorted(LAZY))
def test_what_needs_torch_is_not_imported_with_the_room(room: str, imported: str) -> None:
    body = ast.parse(source_of(room).read_text()).body
    outside = [node for node in body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    assert imported not in imports_of(outside)
    assert imported in imports_of(body)


def test_torch_is_imported_into_a_process_that_is_prepared_for_it() -> None:
    """OpenMP reads its policy when torch is loaded; a room that imports torch before `model_utility` would be too early."""
    watch = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        assert name != "torch" or "OMP_WAIT_POLICY" in os.environ, "torch is imported too early"

sys.meta_path.insert(0, Watch())
import faces
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", watch], cwd=ROOT, env=environment, check=True)  # noqa: S603 - our own interpreter
