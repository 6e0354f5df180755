"""Holds the layers that pyproject.toml names, with import-linter: `python scripts/layers.py`, a part of `make test`.

import-linter knows packages alone. In a folder of links, each module at the root is the package that it is the front of.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent


def main() -> int:
    """The exit status of `lint-imports`."""
    with TemporaryDirectory() as folder:
        packages = Path(folder)
        for module in ROOT.glob("*.py"):
            (packages / module.stem).mkdir()
            (packages / module.stem / "__init__.py").symlink_to(module)
        for package in ROOT.glob("*/__init__.py"):
            (packages / package.parent.name).symlink_to(package.parent)
        os.chdir(packages)
        return lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_logo=True)


if __name__ == "__main__":
    sys.exit(main())
