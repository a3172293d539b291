#!/bin/bash
# The contrastive step in csplade and in PyTorch, side by side on this machine's CPU.
#
#   scripts/bench_cpu.sh [--vocab N]... [--rounds N] [--threads N]
#
# Makes a Python environment with PyTorch, transformers and PEFT (several GB, kept in CSPLADE_BENCH_VENV,
# standard ~/.cache/csplade-bench) and prints a table in Markdown; docs/benchmarks/ keeps results.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD_DIR:-$root/build/release}
venv=${CSPLADE_BENCH_VENV:-$HOME/.cache/csplade-bench}

if ! "$venv/bin/python" -c 'import torch, transformers, peft' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q torch transformers peft
fi
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >&2
cmake --build "$build" --target csplade -j "$(nproc)" >&2
exec "$venv/bin/python" "$root/scripts/bench_cpu.py" --csplade "$build/csplade" "$@"
