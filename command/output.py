"""Where results belong, as -o says: beside their pictures, in a folder, in a file, or on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from command.inputs import Source, is_folder
from command.options import WrongArguments, label_of
from command.words import shown
from core.config import EXTENSIONS, OutputFormat
from schemas.params import UpscaleParams, usual_format

FORMATS = {f".{extension}": image_format for image_format, extension in EXTENSIONS.items()} | {".jpeg": "jpeg"}


class Output:
    """The places of results.

    Raises:
        WrongArguments: -o names none, or stdin or stdout is not there for a picture.
    """

    def __init__(self, options: argparse.Namespace, params: UpscaleParams) -> None:
        text: str | None = options.output
        self.folder: Path | None = None
        self.is_one = text is not None  # picture, and no more
        self._file: Path | None = None
        self._label, self._format = label_of(params), params.output_format
        if text == "":
            raise WrongArguments("-o is empty: give a folder, such as . for this one")
        if text is not None and text != "-":
            path = Path(text)
            if is_folder(text) or text.endswith(os.sep) or not path.suffix:
                self.folder, self.is_one = path, False
            else:
                self._file, self._format = path, _checked_format(path, params.output_format)
        if "-" in options.inputs and sys.stdin is not None and sys.stdin.isatty():
            raise WrongArguments("- is a picture on stdin, which is the terminal here: redirect it, as in < photo.jpg")
        if (text == "-" or (text is None and "-" in options.inputs)) and not options.dry_run:
            _check_stdout()

    def results(self, source: Source, has_alpha: bool) -> dict[OutputFormat, Path | None]:
        """Where the result may go, by its format; None is stdout. There are two if alpha decides."""
        usual = (usual_format(True), usual_format(False)) if has_alpha else (usual_format(False),)
        formats = (self._format,) if self._format else usual
        return {image_format: self._path(source, EXTENSIONS[image_format]) for image_format in formats}

    def _path(self, source: Source, extension: str) -> Path | None:
        if self.folder:
            return self.folder / source.below.parent / f"{source.below.stem}.{extension}"
        if self.is_one or source.is_stdin:
            return self._file
        return source.path.with_name(f"{source.path.stem}-{self._label}.{extension}")


def _checked_format(path: Path, asked: OutputFormat | None) -> OutputFormat:
    image_format = FORMATS.get(path.suffix.lower())
    if image_format is None:
        raise WrongArguments(f"-o {shown(path)} must end in .jpg, .png or .webp, or be a folder: {shown(path)}{os.sep}")
    if asked not in (None, image_format):
        raise WrongArguments(f"-o {shown(path)} is no {asked} file, which --format asks for")
    if not path.parent.is_dir():
        raise WrongArguments(f"-o {shown(path)}: there is no folder {shown(path.parent)}")
    return image_format


def _check_stdout() -> None:
    if sys.stdout is None:
        raise WrongArguments("the picture goes to stdout, which is closed: give a file to -o")
    if sys.stdout.isatty():
        raise WrongArguments("no picture is written to a terminal: redirect stdout, as in > larger.jpg, or give a file to -o")


def make_writable(folder: Path) -> None:
    """Make a folder, and try now what will be done once a picture is made, which may be hours later.

    Raises:
        WrongArguments: no file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as exc:
        raise WrongArguments(f"no file can be written in {shown(folder)}: {exc.strerror}. Give another folder to -o") from exc
