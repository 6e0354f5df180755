"""What import-linter cannot see: the modules at the root, and what must not be imported before it is needed.

The layers of the folders are contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


BELOW = {  # each module of the root, and what it may import of the project
    "utility": {"core"},
    "model_utility": {"core", "models", "weights"},
    "upscale": {"core", "imaging", "model_utility", "models", "schemas"},
    "cli": {"core", "imaging", "model_utility", "schemas", "upscale", "utility"},
    "app": {"api", "core", "model_utility", "serving"},
}


@pytest.mark.parametrize("module", BELOW)
def test_a_module_of_the_root_imports_only_what_is_below_it(module: str) -> None:
    nodes = list(ast.walk(ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    ours = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {name.partition(".")[0] for name in names} & ours <= BELOW[module]


def test_every_module_of_the_root_has_its_place() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(BELOW)


@pytest.mark.parametrize("module", ["app", "cli", "weights.fetch"])
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    """It takes seconds, in which /health could not answer and `--help` would be slow."""
    check = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)  # noqa: S603 - our own interpreter


def test_torch_is_imported_into_a_process_that_is_prepared_for_it() -> None:
    """OpenMP reads its policy when torch is loaded: what prepares the process must come first."""
    watch = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        assert name != "torch" or "OMP_WAIT_POLICY" in os.environ, "torch is imported too early"

sys.meta_path.insert(0, Watch())
import models.face_restoration
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", watch], cwd=ROOT, env=environment, check=True)  # noqa: S603 - our own interpreter
