#!/bin/bash
# Installs what is missing, builds, and runs all tests: a build under the address and
# undefined-behaviour sanitizers, then a release build, which has the CUDA kernels on the emulator too.
#
#   scripts/test.sh [--slow] [--no-sanitize]
#
#   --slow         also what takes minutes (200 killed runs in place of 20)
#   --no-sanitize  leave the second build out
#   BUILD_DIR      folder of the builds (standard: build, in the source folder)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD_DIR:-$root/build}
sanitize=yes
for word in "$@"; do
    case $word in
    --slow) export CSPLADE_SLOW_TESTS=1 ;;
    --no-sanitize) sanitize=no ;;
    *)
        echo "usage: scripts/test.sh [--slow] [--no-sanitize]" >&2
        exit 2
        ;;
    esac
done

packages="gcc g++ cmake ninja-build pkg-config clang-format lld python3 python3-venv zlib1g-dev
    libopenblas-openmp-dev libhdf5-dev libaec-dev libjansson-dev libyaml-dev libpcre2-dev
    libutf8proc-dev libxxhash-dev libcmocka-dev libstemmer-dev libopenmpi-dev openmpi-bin
    slurm-wlm iproute2"

# Names of the packages that are not installed.
missing_packages() {
    local package
    for package in $packages; do
        if ! dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
            echo "$package"
        fi
    done
}

missing=$(missing_packages | tr '\n' ' ')
if [ -n "$missing" ]; then
    echo "test.sh: installing $missing"
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    $as_root apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $missing
fi

# The CUDA compiler and headers: the kernels are compiled for the GPU, and run on the CPU by the emulator.
CUDA_HOME=$("$root/scripts/cuda_toolkit.sh")
export CUDA_HOME

jobs=$(nproc)
# Tests run side by side, each in folders of its own; those that cannot say so to CTest. Many wait (for ranks,
# time limits, signals), so there is one more than there are cores. Threads that wait for one another sleep:
# the cores are shared.
side_by_side=$((jobs + 1))
export OMP_WAIT_POLICY=passive
run_build() { # folder, cmake options, ctest options
    cmake -S "$root" -B "$1" -G Ninja $2
    cmake --build "$1" -j "$jobs"
    ctest --test-dir "$1" --output-on-failure -j "$side_by_side" $3
}

if [ "$sanitize" = yes ]; then
    # Killed and whole runs take many times longer here; the release build runs them, and what is no program.
    run_build "$build/sanitize" "-DCMAKE_BUILD_TYPE=Debug -DCSPLADE_SANITIZE=ON" "-LE slow|sources"
fi
run_build "$build/release" "-DCMAKE_BUILD_TYPE=Release" ""
