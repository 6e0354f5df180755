"""The command line: `python cli.py photo.jpg photos/ -r -o out/ --target 4k`.

Options are the fields of a request, the pipeline is the service's, and so are the bytes that come out. Everything that can be
known without a network is said before anything runs; after that, a picture that fails does not stop the others.
"""

from __future__ import annotations

import signal

from core.signals import end_at_once

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)  # while modules are imported, Ctrl-C leaves no traceback

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from command.making import make, say_plan
from command.options import Parser, WrongArguments, params_of, with_flags
from command.tasks import find_tasks
from command.words import say
from core.config import ConfigError, Settings
from core.errors import DeviceLost, ServiceError
from model_utility import Models, WeightsError, load_models


def main(arguments: list[str] | None = None, load: Callable[[Settings], Models] = load_models) -> int:
    """Exit status 0: every picture is there; 1: at least one failed; 2: the arguments are wrong; 130: stopped by Ctrl-C."""
    if sys.stderr is None:  # it is closed
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    parser = Parser()
    options = parser.read(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        params = params_of(options)
        settings = Settings.from_env({**os.environ, **({"DEVICE": options.device} if options.device else {})})
        if settings.device in ("all", "ray") or "," in settings.device:
            raise WrongArguments(
                f"DEVICE is {settings.device!r}, and this runs on one device: give --device auto, for example"
            )
        tasks, failed = find_tasks(options, params)
        if options.dry_run:
            say_plan(tasks)
        else:
            failed += make(tasks, params, settings, load)
        return 1 if failed else 0
    except WrongArguments as exc:
        parser.error(str(exc))
    except ConfigError as exc:
        message = str(exc)
        say(message.replace("DEVICE", "--device", 1) if options.device and message.startswith("DEVICE") else message)
        return 2
    except DeviceLost as exc:
        say(f"The device has failed: {exc.reason}. Start the same command again: it goes on where this one stopped.")
        return 1
    except (WeightsError, ServiceError) as exc:  # nothing can be made with what is here
        say(with_flags(exc) if isinstance(exc, ServiceError) else str(exc))
        return 1
    except KeyboardInterrupt:
        say("Stopped. Pictures that are done are kept, and nothing half-written is left behind.")
        return 130


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
