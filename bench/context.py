"""What a measurement depends on beside the code: the machine and the versions; and which commit the code was."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.server import ROOT

PACKAGES = ("torch", "openvino", "onnxruntime", "ncnn", "realesrgan", "numpy", "opencv-python", "pillow")


def describe_context(device: dict[str, Any]) -> dict[str, Any]:
    """The context as JSON, with what is known of the device."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        **device,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _commit() -> str:
    """The commit that the code is, and a + where Python files differ from it: results change while others are measured."""
    if not (ROOT / ".git").exists():
        return "unknown"
    head = _git("rev-parse", "--short", "HEAD")
    return f"{head}+" if _git("status", "--porcelain", "--", "*.py") else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
