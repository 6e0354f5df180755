#!/bin/sh
# Makes the virtual environment and installs into it what is missing. The Makefile and the Dockerfile call it.
#
#   requirements/setup.sh         what the service needs
#   requirements/setup.sh --dev   and what its tests need
#   requirements/setup.sh --bench and what its figures need
#
#   PYTHON   the interpreter; unset: the first of those below that is of a right version
#   VENV     the folder, .venv by default
#
# Interrupted, it goes on where it was at the next call. With nothing left to do, it ends at once.
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
interpreters=${PYTHON:-python3 python3.13 python3.12 python3.11}
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

fail() { printf '\n%s\n' "$*" >&2; exit 1; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing; }
is_right() { case $(version_of "$1") in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac }

# Sets $python to the interpreter to use.
find_python() {
    for python in $interpreters; do
        if is_right "$python"; then return; fi
    done
    python=${PYTHON:-python3}
    fail "This needs Python 3.11, 3.12 or 3.13, and $python is $(version_of "$python"). To choose: make PYTHON=python3.12 run"
}

make_venv() {
    find_python
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python$(version_of "$python")-venv"
    echo "Making $VENV with Python $(version_of "$python")"
    "$python" -m venv --clear "$VENV"
}

# pip shows its progress bars where it is not quiet: for a person at a terminal.
quiet=--quiet
if [ -t 1 ]; then quiet=; fi

# One at a time: `make run` in one terminal waits for `make test` in another.
if command -v flock >/dev/null; then exec 9<requirements/setup.sh && flock 9; fi

# A stamp names the Python and the checksum of all that the installation was made from.
checksum=$(cat requirements.txt requirements/*.* requirements/*/*.py | cksum | cut -d ' ' -f 1)
have=$(version_of "$VENV/bin/python")

if [ -n "${PYTHON:-}" ] && find_python && [ "$(version_of "$python")" != "$have" ]; then
    make_venv
    have=$(version_of "$VENV/bin/python")
fi

if [ ! -e "$VENV/.installed-$have-$checksum" ]; then
    if ! is_right "$VENV/bin/python" || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        make_venv
        have=$(version_of "$VENV/bin/python")
    fi
    rm -f "$VENV"/.installed-* "$VENV"/.dev-* "$VENV"/.bench-*
    echo "Installing what the service needs. The first time, torch and CUDA are about 3 GB to download: some minutes."
    "$VENV/bin/python" -m pip install $quiet -r requirements.txt
    PYTHONPATH=$PWD/requirements/setup_hook BASICSR_EXT=False \
        "$VENV/bin/python" -m pip install $quiet --no-deps --no-build-isolation --use-pep517 -r requirements/nodeps.txt
    "$VENV/bin/python" requirements/check.py
    touch "$VENV/.installed-$have-$checksum"
fi

extra=${1:-}
extra=${extra#--}
if [ -n "$extra" ] && [ ! -e "$VENV/.$extra-$have-$checksum" ]; then
    echo "Installing what $extra needs."
    "$VENV/bin/python" -m pip install $quiet -r "requirements/$extra.txt"
    touch "$VENV/.$extra-$have-$checksum"
fi
