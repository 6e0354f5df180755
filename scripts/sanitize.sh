#!/bin/sh
# Runs scripts/sanitize.cpp, with the engine for CPUs in it, for each instruction set that this CPU has under AddressSanitizer and
# UndefinedBehaviorSanitizer, then once under ThreadSanitizer. The first report ends it. `make sanitize` calls it; it needs g++.
set -eu
cd "${0%/*}/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

has() { for flag in "$@"; do grep -qw "$flag" /proc/cpuinfo || return 1; done; }

# build ISA SANITIZERS
build() {
    # shellcheck disable=SC2046  # a list of flags
    "${CXX:-g++}" $(scripts/build_engine.sh --flags "$1") -O2 -g -fsanitize="$2" -fno-sanitize-recover=all \
        scripts/sanitize.cpp -o "$work/$1-$2"
}

# run ISA SANITIZERS
run() {
    "$work/$1-$2"
    echo "$1: nothing to report by $2"
}

best=avx2
if has avx512f avx512bw avx512dq avx512vl; then best=avx512; fi
build $best thread &
build avx2 address,undefined
if [ $best = avx512 ]; then build avx512 address,undefined; fi
wait $!

run avx2 address,undefined
if [ $best = avx512 ]; then run avx512 address,undefined; fi
run $best thread
