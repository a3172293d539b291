#!/bin/bash
# Proves and measures csplade's CUDA backend on this machine, from a bundle that scripts/gpu_bundle.sh made
# elsewhere. Needed here: an NVIDIA driver, Python 3.8, and cuBLAS of CUDA 13 (the toolkit or pip's
# wheels), for one case cuSPARSE.
#
#   gpu.sh [OPTION...]          all parts that are not done yet, in order, into ./gpu-results
#   gpu.sh run COMMAND [WORD...]   a program of the bundle with its libraries found, e.g. run csplade doctor
#
# gpu.sh --help has the options, docs/benchmarks/gpu.md the whole story.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "gpu.sh: no $python on this machine (PYTHON names another)" >&2
    exit 5
fi
if [ ! -f "$here/manifest.json" ]; then
    echo "gpu.sh: $here is not an unpacked bundle: scripts/gpu_bundle.sh makes one, unpack it and run the gpu.sh in it" >&2
    exit 2
fi
exec "$python" "$here/scripts/gpu_run.py" "$here" "$@"
