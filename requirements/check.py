"""Imports the packages of requirements.txt and finds those of nodeps.txt: the last step of setup.sh.

What pip cannot see shows only here: a system library that is not there, a broken file.
"""

import importlib
import importlib.util
import sys

NETWORKS = ("torch", "torchvision", "scipy", "tqdm", "yaml", "requests")
SERVICE = ("quart", "hypercorn", "httpx", "orjson", "pybase64", "prometheus_client", "numpy", "PIL")
FOUND = ("basicsr", "facexlib", "gfpgan", "realesrgan")  # model_utility.py imports them, behind its shim


def check() -> None:
    """Raises SystemExit with a sentence where something is missing."""
    try:
        importlib.import_module("cv2")
    except ImportError as exc:
        sys.exit(f"\nOpenCV needs a system library: {exc}. On Debian and Ubuntu: apt-get install libgl1 libglib2.0-0")
    for name in SERVICE + NETWORKS:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            sys.exit(f"\n{name} is installed, but cannot be imported: {exc}. Delete {sys.prefix} and call this again.")
    for name in FOUND:
        if importlib.util.find_spec(name) is None:
            sys.exit(f"\n{name} is not installed")


if __name__ == "__main__":
    check()
