"""What the README says of variables, weights, errors and fields is what the code does."""

from __future__ import annotations

import errors
from bench.server import ROOT
from config import settings_table
from contract import fields_table
from errors import JobCancelled, ServiceError, Unavailable
from weights.manifest import WeightFile, read_manifest

README = (ROOT / "README.md").read_text(encoding="utf-8")


def weights_row(file: WeightFile) -> str:
    return f"| `{file.name}` | {file.purpose} | {file.without} | {file.license} |"


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    assert settings_table() in README


def test_the_table_of_weights_is_that_of_the_manifest() -> None:
    assert "\n".join(weights_row(file) for file in read_manifest().values()) in README


def test_every_error_is_in_the_readme_and_in_the_tree() -> None:
    classes = [member for member in vars(errors).values() if isinstance(member, type) and issubclass(member, ServiceError)]
    leaves = [error for error in classes if not error.__subclasses__() and error is not JobCancelled]
    assert len(leaves) > 15
    for error in leaves:
        assert f"`{error.code}`" in README, error
        assert f" {error.__name__}" in (errors.__doc__ or ""), error
        assert issubclass(error, Unavailable) == (error.status == 503)


def test_the_table_of_fields_is_that_of_the_contract() -> None:
    assert fields_table() in README
