#!/bin/bash
# Prints the folder of a CUDA toolkit: the one that is installed, or one made of the pinned PyPI wheels
# of the CUDA 13 components (compiler, headers, cuBLAS, cuSPARSE; about 600 MB once).
#
#   scripts/cuda_toolkit.sh [--no-download] [FOLDER]
#
#   --no-download  print nothing and end with status 1 where no toolkit is installed
#   FOLDER         where a toolkit is made (standard: csplade/cuda-13.0 in the cache of the user)
#
# CUDA_HOME names an installed toolkit; nvcc in PATH and /usr/local/cuda are tried after it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
download=yes
if [ "${1:-}" = --no-download ]; then
    download=no
    shift
fi
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/csplade/cuda-13.0}

is_toolkit() {
    [ -x "$1/bin/nvcc" ] && [ -f "$1/include/cuda_runtime.h" ] && [ -f "$1/include/cublasLt.h" ] &&
        [ -f "$1/include/cusparse.h" ]
}

in_path=$(command -v nvcc || true)
[ -z "$in_path" ] || in_path=$(dirname "$(dirname "$(readlink -f "$in_path")")")
for place in "${CUDA_HOME:-}" "$in_path" /usr/local/cuda "$folder"; do
    if [ -n "$place" ] && is_toolkit "$place"; then
        echo "$place"
        exit 0
    fi
done
[ "$download" = yes ] || exit 1

echo "cuda_toolkit.sh: making a CUDA toolkit in $folder from PyPI wheels" >&2
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$(dirname "$folder")/cuda.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" >&2
# The wheels hold files only; --target unpacks them without an environment that could be used.
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary :all: --target "$work/wheels" -r "$here/cuda_toolkit.txt" >&2
made=$work/wheels/nvidia/cu13
chmod +x "$made"/bin/* "$made"/nvvm/bin/* 2>/dev/null || true
# The linker looks for names without versions, nvcc for lib64.
for library in "$made"/lib/lib*.so.*; do
    plain=${library%%.so.*}.so
    [ -e "$plain" ] || ln -s "$(basename "$library")" "$plain"
done
[ -e "$made/lib64" ] || ln -s lib "$made/lib64"
if ! is_toolkit "$made"; then
    echo "cuda_toolkit.sh: the wheels do not hold a toolkit" >&2
    exit 1
fi
rm -rf "$folder"
mv "$made" "$folder"
echo "$folder"
