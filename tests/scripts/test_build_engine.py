"""`scripts/build_engine.sh` builds both libraries, with the first compiler that works, or says in one line that it cannot."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = 'extern "C" int answer() { return 42; }\n'
LIBRARIES = {"winograd_avx2.so", "winograd_avx512.so"}

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no g++")


class Clone:
    """A folder with the script and a small source in place of the engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lib = folder / "models" / "engines" / "lib"
        self.source = folder / "models" / "engines" / "winograd.cpp"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.source.parent.mkdir(parents=True)
        self.source.write_text(SOURCE, encoding="utf-8")
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "build_engine.sh", folder / "scripts")

    def program(self, name: str, script: str) -> None:
        """A program that is found before all others of this name."""
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.programs / name).chmod(0o755)

    def without_compilers(self) -> None:
        for name in ("g++", "clang++"):
            self.program(name, "echo 'error: broken' >&2; exit 1")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if name not in ("CXX", "VENV")}
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.Popen(  # noqa: S603 - our own script
            [str(self.folder / "scripts" / "build_engine.sh"), *arguments],
            env={**inherited, "PATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """The exit status, and what it says."""
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output + errors

    def built(self) -> set[str]:
        """All that is in the folder of the libraries, but for the marks."""
        if not self.lib.exists():
            return set()
        return {path.name for path in self.lib.iterdir() if not path.name.startswith((".built-", ".failed"))}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@needs_compiler
def test_both_libraries_can_be_loaded(clone: Clone) -> None:
    assert clone.build() == (0, "")
    assert clone.built() == LIBRARIES
    for name in LIBRARIES:
        assert ctypes.CDLL(str(clone.lib / name)).answer() == 42


@needs_compiler
def test_a_broken_compiler_is_named_and_the_next_one_builds(clone: Clone) -> None:
    clone.program("broken", "echo 'broken: error: no such flag' >&2; exit 1")
    status, said = clone.build(CXX="broken -x")
    assert (status, clone.built()) == (0, LIBRARIES)
    assert said == "broken cannot build the engine: broken: error: no such flag\n"


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_not_kept(clone: Clone) -> None:
    if "avx2" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("a CPU that could not load it anyway")
    clone.source.write_text('extern "C" int missing(); extern "C" int answer() { return missing(); }', encoding="utf-8")
    status, said = clone.build()
    assert (status, clone.built()) == (0, set())
    assert "undefined symbol: missing" in said


def test_without_a_compiler_it_warns_and_tries_again_when_another_one_comes(clone: Clone) -> None:
    clone.without_compilers()
    status, said = clone.build()
    assert (status, clone.built()) == (0, set())
    assert "g++ cannot build the engine: error: broken" in said
    warning = said.splitlines()[-1]
    assert "is not built: no C++ compiler here" in warning

    assert clone.build() == (0, warning + "\n")

    clone.program("another", "echo 'error: as broken' >&2; exit 1")
    assert "another cannot build" in clone.build(CXX="another")[1]


def test_a_failure_is_forgotten_after_a_day(clone: Clone) -> None:
    clone.without_compilers()
    clone.build()
    yesterday = time.time() - 2 * 86400
    os.utime(clone.lib / ".failed", (yesterday, yesterday))
    assert "g++ cannot build" in clone.build()[1]


@pytest.mark.parametrize("machine", ["Linux aarch64", "Darwin x86_64"])
def test_another_machine_builds_nothing_and_says_so(clone: Clone, machine: str) -> None:
    clone.program("uname", f"echo {machine}")
    status, said = clone.build()
    assert (status, said.count("\n"), clone.built()) == (0, 1, set())
    assert "needs x86-64 and Linux" in said


def test_without_its_source_it_fails(clone: Clone) -> None:
    clone.source.unlink()
    status, said = clone.build()
    assert status == 1
    assert "models/engines/winograd.cpp is missing" in said


def test_an_interrupted_build_leaves_no_half_file(clone: Clone) -> None:
    os.mkfifo(clone.folder / "started")
    clone.program("slow", f'for last; do :; done; echo half >"$last"; echo >{clone.folder}/started; exec sleep 60')
    process = clone.start(CXX="slow")
    with (clone.folder / "started").open("r+b", buffering=0) as started:  # a pipe that we too could write to has no end
        while started.read(1) + started.read(1) != b"\n\n":  # one from each compiler
            pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(clone.lib.iterdir()) == []


@needs_compiler
def test_nothing_is_done_twice_and_a_change_builds_again(clone: Clone) -> None:
    clone.build()
    clone.program("never", "echo 'error: called' >&2; exit 1")
    assert clone.build(CXX="never") == (0, "")

    (clone.source.parent / "part.h").write_text("// a change", encoding="utf-8")
    assert "never cannot build" in clone.build(CXX="never")[1]
    assert clone.build(CXX="never") == (0, "")

    (clone.lib / "winograd_avx512.so").unlink()
    clone.build()
    assert clone.built() == LIBRARIES


@needs_compiler
def test_nothing_to_do_takes_no_time(clone: Clone) -> None:
    clone.build()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        clone.build()
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.2  # 0.01 on an idle machine


@pytest.mark.slow  # fetches 100 MB and compiles a C++ library
def test_without_a_compiler_one_is_fetched_and_removed(clone: Clone) -> None:
    clone.without_compilers()
    venv.create(clone.folder / ".venv", with_pip=True)
    process = clone.start()
    said = "".join(process.communicate(timeout=900))
    assert process.returncode == 0
    assert "fetching one" in said
    assert clone.built() == LIBRARIES
    assert ctypes.CDLL(str(clone.lib / "winograd_avx2.so")).answer() == 42
