"""Imports what the service imports: the last step of setup.sh.

What uv cannot see shows only here: a system library that is not there, a broken file. It also compiles, for the first start.
"""

import importlib
import importlib.util
import sys

SERVICE = ("quart", "hypercorn", "httpx", "pydantic", "orjson", "pybase64", "prometheus_client", "numpy", "PIL", "pillow_heif")
MODELS = ("torch", "torchvision", "scipy", "tqdm", "yaml", "requests")
FOUND = ("basicsr", "facexlib", "gfpgan", "realesrgan")  # imported behind a shim, by the service


def check() -> None:
    """Raises SystemExit with a sentence where something is missing."""
    try:
        importlib.import_module("cv2")
    except ImportError as exc:
        sys.exit(f"\nOpenCV needs a system library: {exc}. On Debian and Ubuntu: apt-get install libgl1 libglib2.0-0")
    for name in SERVICE + MODELS:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            sys.exit(f"\n{name} is installed, but cannot be imported: {exc}. Delete {sys.prefix} and call this again.")
    for name in FOUND:
        if importlib.util.find_spec(name) is None:
            sys.exit(f"\n{name} is not installed")


if __name__ == "__main__":
    check()
