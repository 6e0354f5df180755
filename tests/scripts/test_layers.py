"""What must not be imported before it is needed. The layers themselves are contracts in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_every_module_has_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    ours = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(contracts["root_packages"]) == ours - {"bench", "scripts", "tests"}
    layered = {name.strip() for layer in contracts["contracts"][0]["layers"] for name in layer.split("|")}
    assert layered == set(contracts["root_packages"])


@pytest.mark.parametrize("module", ["app", "cli", "weights.fetch"])
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    """It takes seconds, in which /health could not answer and `--help` would be slow."""
    check = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)  # noqa: S603 - our own interpreter


def test_torch_is_imported_into_a_process_that_is_prepared_for_it() -> None:
    """OpenMP reads its policy when torch is loaded: what prepares the process must come first."""
    watch = """
import importlib.abc, os, sys, types

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        assert name != "torch" or "OMP_WAIT_POLICY" in os.environ, "torch is imported too early"

sys.meta_path.insert(0, Watch())
import models.face_restoration
assert "torch._dynamo" not in sys.modules, "torch's compiler was imported, which takes seconds"

sys.modules["torch._dynamo.utils"] = compiler = types.ModuleType("torch._dynamo.utils")
compiler.is_compile_supported = lambda device: f"asked about {device}"
from torchvision.ops.roi_align import is_compile_supported
assert is_compile_supported("cpu") == "asked about cpu"
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", watch], cwd=ROOT, env=environment, check=True)  # noqa: S603 - our own interpreter
