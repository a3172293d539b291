#!/bin/bash
# From nothing to a sparse retriever on real text, in 15 minutes on 2 cores: installs packages,
# builds, fetches the text from the Debian archive, trains, evaluates against BM25, writes a report.
#
#   scripts/demo.sh [--data wordnet|debian] [--minutes N] [--work DIR] [--from STEP] [--device NAME]
#
#   --data      wordnet: a reverse dictionary, definitions find their words (standard)
#               debian: package synopses find their descriptions; words do match there
#   --minutes   time for everything, installing included (standard 15); training gets what is left
#   --work      folder of everything that is made (standard: demo-wordnet, demo-debian)
#   --from      do this step and all after it again: data tokenizer speed scratch adapted encode
#               report (finished steps are passed over without it; a killed training goes on)
#   --device    cpu (standard), cuda, cuda:N, or auto: cuda where there is an NVIDIA driver. For cuda the CUDA
#               backend is built too, which takes some minutes of those
set -euo pipefail

started=$(date +%s)
root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD_DIR:-$root/build/release}
case ${1:-} in -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

wants_cuda=
case " $* " in
*" --device cuda"* | *" --device=cuda"*) wants_cuda=yes ;;
*" --device auto "* | *" --device=auto "*) if /sbin/ldconfig -p | grep 'libcuda[.]so[.]1' >/dev/null; then wants_cuda=yes; fi ;;
esac

missing=
for package in ${wants_cuda:+g++ python3-venv} gcc cmake ninja-build pkg-config python3 zlib1g-dev libopenblas-openmp-dev \
    libhdf5-dev libaec-dev libjansson-dev libyaml-dev libpcre2-dev libutf8proc-dev libxxhash-dev \
    libstemmer-dev libopenmpi-dev openmpi-bin ca-certificates; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
as_root=
[ "$(id -u)" -eq 0 ] || as_root=sudo
if [ -n "$missing" ]; then
    echo "demo.sh: installing$missing" >&2
    $as_root apt-get update -q >&2
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends \
        $missing >&2
elif ! apt-cache show wordnet-base >/dev/null 2>&1; then
    $as_root apt-get update -q >&2
fi

if [ -n "$wants_cuda" ]; then
    CUDA_HOME=$("$root/scripts/cuda_toolkit.sh")
    export CUDA_HOME
fi
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >&2
cmake --build "$build" --target csplade ${wants_cuda:+csplade_cuda} -j "$(nproc)" >&2

exec python3 "$root/scripts/demo.py" --started "$started" --csplade "$build/csplade" "$@"
