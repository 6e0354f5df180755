"""Calls of the command line around a fake network."""

from __future__ import annotations

from pathlib import Path

import cli
from core.config import Settings
from model_utility import Models
from tests.helpers import encode, fake_models, sample_crop

SMALL = encode(sample_crop(60, 40))


class Run:
    """One call of the command line, and what it left."""

    def __init__(self, *arguments: str, models: Models | None = None) -> None:
        self.loaded: list[Settings] = []

        def load(settings: Settings) -> Models:
            self.loaded.append(settings)
            return models or fake_models()

        self.status = cli.main(list(arguments), load)


def files(folder: str = "out") -> list[str]:
    """What is in a folder and below, sorted, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if not path.is_dir())
