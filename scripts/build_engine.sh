#!/bin/sh
# Builds models/engines/winograd.cpp into models/engines/lib/, once for AVX2 and once for AVX-512. setup.sh and the Dockerfile
# call it.
#
#   scripts/build_engine.sh                  builds what is missing or old
#   scripts/build_engine.sh --flags avx2     says how the compiler is called for this one, or for avx512
#
#   CXX    the compiler to try first. Then g++, clang++, and last a compiler from the package index, which is not kept
#   VENV   the virtual environment whose pip fetches that one, .venv by default. Without it, nothing is fetched
#
# Where no compiler can be had, it says so and succeeds: the service runs without the engine, but slower. It tries again a day
# later, or as soon as another compiler is there. Interrupted, it leaves what was there before.
set -eu
cd "${0%/*}/.."

# Never -march=native: the service chooses a library by what the CPU has, and every machine builds the same two.
common='-std=c++17 -O3 -fno-math-errno -ffp-contract=off -fPIC -pthread'
avx2='-mavx2 -mfma'
avx512='-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma'

# clang in a wheel, for a machine without a compiler. No group of uv.lock has it, since nobody is to install it: 410 MB.
ziglang='ziglang==0.17.0 --hash=sha256:97079827064a7492cce5541ceb438ae8003ce1e54e399676da2d62fb7a5dc08b'
# An old glibc, which it brings, and a CPU without extensions but for those above. Its C++ library goes into the result.
target='-target x86_64-linux-gnu.2.28 -mcpu=baseline -s'

# shellcheck disable=SC2086  # avx2 or avx512
if [ "${1:-}" = --flags ]; then eval echo '$common' \$$2 && exit 0; fi

fail() { printf '%s\n' "$*" >&2; exit 1; }
slower='the CPU runs on torch alone, which is slower.'

if [ "$(uname -sm)" != 'Linux x86_64' ]; then
    echo "The engine for CPUs needs x86-64 and Linux. Here $slower"
    exit 0
fi

source=models/engines/winograd.cpp
lib=$PWD/models/engines/lib
[ -e "$source" ] || fail "$source is missing: this clone is not complete."

# One at a time.
if command -v flock >/dev/null; then exec 8<scripts/build_engine.sh && flock 8; fi

# A stamp names the checksum of all that the libraries are made from.
read_sources() { cat models/engines/*.cpp models/engines/*.h 2>/dev/null || true; }
checksum=$( (read_sources && cat scripts/build_engine.sh) | cksum)
sources=$(read_sources | sha256sum)
common="$common -DSOURCES_SHA256=\"${sources%% *}\""
stamp=$lib/.built-${checksum%% *}
if [ -e "$stamp" ] && [ -e "$lib/winograd_avx2.so" ] && [ -e "$lib/winograd_avx512.so" ]; then exit 0; fi

# What failed is tried again when one of these changes.
tried="${stamp##*-} ${CXX:-} $(command -v g++ || true) $(command -v clang++ || true)"
warn() { echo "The engine for CPUs is not built: no C++ compiler here. $slower To change that: apt-get install g++" >&2; }
if [ -n "$(find "$lib/.failed" -mtime -1 2>/dev/null)" ] && [ "$(cat "$lib/.failed")" = "$tried" ]; then
    warn
    exit 0
fi

if ! mkdir -p "$lib" 2>/dev/null || ! work=$(mktemp -d "$lib/.build.XXXXXX" 2>/dev/null); then
    echo "The engine for CPUs is not built, for $lib cannot be written: $slower" >&2
    exit 0
fi
for old in "$lib"/.build.*; do if [ "$old" != "$work" ]; then rm -rf "$old"; fi; done
running=
clean() {
    # shellcheck disable=SC2086  # a list of numbers
    if [ -n "$running" ]; then kill $running 2>/dev/null || true; fi
    rm -rf "$work"
}
trap clean EXIT
# A signal may come between the start of a process and its place in the list.
stop() { running="$running ${!:-}" && exit "$1"; }
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM
export TMPDIR="$work" ZIG_GLOBAL_CACHE_DIR="$work/cache" ZIG_LOCAL_CACHE_DIR="$work/cache"

# Waits for what runs; a signal ends the waiting, and clean() what runs.
finish() {
    status=0
    for process in $running; do wait "$process" || status=1; done
    running=
    return $status
}

# compile COMMAND…: both libraries at once. In two steps, since ziglang then makes its C++ library once, not for each.
compile() {
    for isa in avx2 avx512; do
        eval "flags=\$$isa"
        # shellcheck disable=SC2086,SC2154  # lists of words; the line above
        "$@" $common $flags -c "$source" -o "$work/$isa.o" 2>"$work/$isa.log" &
        running="$running $!"
    done
    finish || return 1
    for isa in avx2 avx512; do
        # shellcheck disable=SC2086  # lists of words
        "$@" $common -shared "$work/$isa.o" -o "$work/winograd_$isa.so" 2>"$work/$isa.log" &
        running="$running $!"
    done
    finish
}

# Whether the dynamic linker finds all that the library needs. One answers for both, and this one more CPUs can run.
loads() {
    grep -qw avx2 /proc/cpuinfo || return 0
    python=$VENV/bin/python
    if [ ! -e "$python" ]; then python=python3; fi
    "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$work/winograd_avx2.so" 2>"$work/avx2.log"
}

# try COMMAND…: goes on to the next compiler where this one fails, since one that is broken or too old must not stop a set-up.
try() {
    if compile "$@" && loads; then return 0; fi
    echo "$1 cannot build the engine: $(grep -ihm 1 error "$work"/*.log | head -n 1)" >&2
    return 1
}

try_installed() {
    for compiler in "${CXX:-}" g++ clang++; do
        # shellcheck disable=SC2086  # CXX may be "ccache g++"
        if command -v "${compiler%% *}" >/dev/null && try $compiler; then return 0; fi
    done
    return 1
}

# With pip, whose settings know a company's index and its certificates.
try_fetched() {
    if [ ! -e "$VENV/bin/python" ]; then return 1; fi
    echo 'No C++ compiler: fetching one for the engine for CPUs (ziglang, 100 MB). It takes a minute, and is removed afterwards.'
    echo "$ziglang" >"$work/ziglang.txt"
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --retries 2 --no-cache-dir --no-deps --no-compile \
        --require-hashes --target "$work/ziglang" --requirement "$work/ziglang.txt" &
    running=$!
    # shellcheck disable=SC2086  # a list of words
    finish && try "$work/ziglang/ziglang/zig" c++ $target
}

VENV=${VENV:-.venv}
rm -f "$lib"/.built-* "$lib/.failed"
if try_installed || try_fetched; then
    mv "$work"/winograd_*.so "$lib"
    touch "$stamp"
else
    rm -f "$lib"/winograd_*.so
    echo "$tried" >"$lib/.failed"
    warn
fi
