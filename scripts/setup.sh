#!/bin/sh
# Makes the virtual environment, installs into it what uv.lock pins, and builds the engine for CPUs. The Makefile and the
# Dockerfile call it.
#
#   scripts/setup.sh          what the service needs
#   scripts/setup.sh --dev    and what its tests need
#   scripts/setup.sh --bench  and what its benchmarks need
#   scripts/setup.sh --ray    and what DEVICE=ray needs
#   scripts/setup.sh --image  for scripts/slim.sh: OpenCV without its windows
#
#   PYTHON   the interpreter; unset: the first of those below that is of a right version
#   VENV     the folder, .venv by default
#
# Interrupted, it goes on at the next call. With nothing left to do, it ends at once.
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

# What uv must be told: the certificates are the system's, and a company's index is where pip's settings have it.
configure_uv() {
    settings=$("$VENV/bin/python" -m pip config list)
    of_pip() { printf '%s\n' "$settings" | sed -nE "s/^(:env:|global)\.$1='(.*)'\$/\2/p" | head -n 1; }
    export UV_PYTHON="$VENV/bin/python" UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"
    export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$(of_pip index-url)}"
    certificates=${SSL_CERT_FILE:-$(of_pip cert)}
    if [ -n "$certificates" ]; then export SSL_CERT_FILE="$certificates"; fi
}

# install NAME OPTION COMMAND…: by `uv pip COMMAND` what `uv export OPTION` reads from the lock. `uv sync --frozen` would do
# both, but takes each file from the address in the lock, whatever index is set. uv takes half a package for a whole one:
# what was interrupted is installed again.
install() {
    name=$1 option=$2 again=
    shift 2
    "$VENV/bin/python" -m pip install $quiet "$(sed -n 's/.*"\(uv==[0-9.]*\)".*/\1/p' pyproject.toml)"
    configure_uv
    "$VENV/bin/uv" export --quiet --frozen --no-emit-project "$option" --output-file "$VENV/$name.txt"
    if [ -e "$VENV/.unfinished-$name" ]; then again=--reinstall; fi
    touch "$VENV/.unfinished-$name"
    BASICSR_EXT=False PYTHONPATH=$PWD/scripts/setup_hook "$VENV/bin/uv" $quiet pip "$@" "$VENV/$name.txt" $again
    rm "$VENV/.unfinished-$name"
}

# Progress bars are for a person at a terminal.
quiet=--quiet
if [ -t 1 ]; then quiet=; fi

# One at a time: `make run` in one terminal waits for `make test` in another.
if command -v flock >/dev/null; then exec 9<scripts/setup.sh && flock 9; fi

have=$(version_of "$VENV/bin/python")
if [ -n "${PYTHON:-}" ] && find_python && [ "$(version_of "$python")" != "$have" ]; then have=missing; fi

# A stamp names the Python and the checksum of all that the installation was made from.
checksum=$(cat uv.lock scripts/setup.sh scripts/setup_hook/*.py | cksum | cut -d ' ' -f 1)
stamp=$have-$checksum

if [ ! -e "$VENV/.service-$stamp" ]; then
    if [ "$have" = missing ] || ! is_right "$VENV/bin/python" || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        make_venv
        stamp=$(version_of "$VENV/bin/python")-$checksum
    fi
    rm -f "$VENV"/.service-* "$VENV"/.dev-* "$VENV"/.bench-* "$VENV"/.ray-*
    echo "Installing what the service needs. The first time, torch and CUDA are about 3 GB to download."
    install service --no-dev sync
    PYTHONDONTWRITEBYTECODE='' "$VENV/bin/python" scripts/check.py
    touch "$VENV/.service-$stamp"
fi

extra=${1:-}
extra=${extra#--}
if [ -n "$extra" ] && [ ! -e "$VENV/.$extra-$stamp" ]; then
    echo "Installing what $extra needs."
    install "$extra" "--only-group=$extra" install --no-deps --requirement
    touch "$VENV/.$extra-$stamp"
fi

# In the Dockerfile, a stage of its own builds it.
if [ -e scripts/build_engine.sh ]; then VENV=$VENV scripts/build_engine.sh; fi
