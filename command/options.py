"""The flags of the command line: the fields of a request, and some of its own. Messages name flags, and not fields."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from core.config import INPUT_FORMATS, TARGET_PX, VERSION, either
from core.errors import ConflictingFields, ServiceError
from schemas.params import PARAMS, UpscaleParams, limits_of, parse_params
from schemas.plan import Size, plan_for

# By parameter.
FLAGS = {
    "target_resolution": "--target",
    "model": "--model",
    "denoise": "--denoise",
    "enhance_faces": "--no-faces",
    "face_strength": "--face-strength",
    "output_format": "--format",
    "quality": "--quality",
    "fit": "--fit",
    "scale": "--scale",
    "metadata": "--metadata",
}
_KINDS: dict[str, Callable[[str], Any]] = {"string": str, "integer": int, "number": float}
_HELP = """\
where results go:
  Beside the picture, photo.jpg becomes photo-4k.jpg, or photo-2x.jpg with
  --scale 2. In the folder of -o it keeps its name, and with -r or a pattern the
  folders that it is in. A result that is there already is skipped, whatever
  options it was made with; --force makes it anew. Two pictures for one result
  are refused before anything is made, also if only upper and lower case differ.
  Of photo.jpg and photo-4k.jpg in one folder, the second is taken for a result
  of the first, and is not made larger unless it is given without the first.

what is taken:
  Of a folder its pictures, with -r those in its folders too; no hidden files,
  nothing behind links to folders, and nothing in the folder of -o. What is no
  picture is skipped there, and an error where it is named. A quoted pattern
  ('*.png', 'photos/**/*.jpg') finds files in the same way. For a name that
  begins with -, write ./-name.

exit status:
  0  all done
  1  some failed, or no picture was found
  2  wrong arguments; nothing was made
  130  stopped by Ctrl-C
"""


class WrongArguments(ValueError):
    """Nothing is made with these; the message names the flag."""


class Parser(argparse.ArgumentParser):
    """Reads the arguments; an error is one line, and exit status 2."""

    def __init__(self) -> None:
        super().__init__(
            prog="cli.py",
            usage="%(prog)s [options] picture [picture ...]",
            description="Make pictures larger, as the service does, without one. Files are read here and go nowhere.",
            epilog=_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument(
            "inputs",
            nargs="*",
            metavar="picture",
            default=[],
            help=f"{either(INPUT_FORMATS)} of any size, a folder, a quoted pattern, or - for stdin",
        )
        self.add_argument(
            "-o",
            "--output",
            help="a folder; for one picture also a file that ends in .jpg, .png or .webp, or - for stdout "
            "(default: beside the picture; for stdin, stdout)",
        )
        self.add_argument("-r", "--recursive", action="store_true", help="look in the folders of a folder too")
        self.add_argument("--force", action="store_true", help="make anew what is there already")
        self.add_argument("--dry-run", action="store_true", help="only say what would be made, of which size and where")
        for name, flag in FLAGS.items():
            if name != "enhance_faces":
                self._add_parameter(name, flag)
        self.add_argument("--no-faces", action="store_true", help="leave faces as they are")
        self.add_argument("--device", metavar="auto|cpu|cuda|cuda:N", help="instead of the variable DEVICE")
        self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")

    def _add_parameter(self, name: str, flag: str) -> None:
        schema = PARAMS[name]
        limits = f", {limits_of(schema)}" if "maximum" in schema else ""
        default = f" (default: {schema['default']})" if "default" in schema else ""
        text = re.sub(r"`(\w+)`", lambda quoted: FLAGS.get(quoted[1], quoted[0]), schema["description"])
        self.add_argument(
            flag,
            dest=name,
            default=argparse.SUPPRESS,
            metavar="|".join(schema["enum"]) if "enum" in schema else "number",
            help=text.replace("%", "%%") + limits + default,
        )

    def read(self, arguments: list[str] | None) -> argparse.Namespace:
        """The arguments: pictures and flags in any order, and after `--` pictures alone."""
        given = sys.argv[1:] if arguments is None else arguments
        end = given.index("--") if "--" in given else len(given)
        options, others = self.parse_known_args(given[:end])
        for text in others:
            if text.startswith("-") and text != "-":
                hint = f": for the file of this name, write ./{text}" if os.path.lexists(text) else ""
                self.error(f"there is no option {text}{hint}")
        options.inputs += others + given[end + 1 :]
        if not options.inputs:
            self.error("give a picture, a folder or a quoted pattern; --help tells more")
        return options

    def error(self, message: str) -> NoReturn:
        """End, with what is wrong."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def params_of(options: argparse.Namespace) -> UpscaleParams:
    """The parameters that the flags give.

    Raises:
        WrongArguments: a value is none, or two do not go together.
    """
    if options.device and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.device):
        raise WrongArguments(f"--device must be auto, cpu, cuda or cuda:N, not {options.device!r}")
    given = {name: _value(name, text) for name, text in vars(options).items() if name in PARAMS}
    if options.no_faces:
        given["enhance_faces"] = False
    try:
        params = parse_params(given)
        plan_for(Size(1, 1), params)
    except ConflictingFields as exc:
        others = [FLAGS[name] for name in ("target_resolution", "fit") if "scale" in given and name in given]
        raise WrongArguments(f"--scale and {others[0]} cannot be given together" if others else with_flags(exc)) from exc
    except ServiceError as exc:
        raise WrongArguments(with_flags(exc)) from exc
    return params


def _value(name: str, text: str) -> Any:
    try:
        return _KINDS[PARAMS[name]["type"]](text)
    except ValueError:
        return text  # whose parameter says what it should be


def with_flags(error: ServiceError) -> str:
    """An error's message, with flags in place of the fields that it names."""
    names = [name for name in FLAGS if "_" in name or name == error.details.get("field")]  # the others are words too
    text = re.sub(rf"\b({'|'.join(names)})\b", lambda name: FLAGS[name[0]], error.message)
    return re.sub(r"\bscale (?=\d)", "--scale ", text)


def label_of(params: UpscaleParams) -> str:
    """What the name of a result beside its picture ends with."""
    return f"{params.scale:g}x" if params.scale is not None else params.target_resolution


def is_label(text: str) -> bool:
    """Whether some parameters give this label."""
    return text in TARGET_PX or re.fullmatch(r"\d+(\.\d+)?x", text) is not None
