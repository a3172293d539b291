#!/bin/bash
# Builds csplade with its CUDA backend and packs all that a bare GPU machine needs into one archive:
# programs, their tests for a device, the host libraries they need, CUDA sources, scripts. Not packed are
# what such a machine has: glibc, the driver, cuBLAS, cuSPARSE. docs/benchmarks/gpu.md says how it is used.
#
#   scripts/gpu_bundle.sh [--no-build] [OUTPUT]
#
# Where scripts/demo.sh has prepared its text (demo-wordnet/beir), that is packed too, for the part "demo".
#
#   --no-build   take what lies in the build folder
#   OUTPUT       the archive (standard: csplade-gpu.tar.gz in the build folder)
#   BUILD_DIR    the build folder (standard: build/gpu, in the source folder)
#   DEMO_DIR     the work folder of scripts/demo.sh (standard: demo-wordnet, in the source folder)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD_DIR:-$root/build/gpu}
most_bytes=56000000 # with the sources beside it, a machine that takes 64 MiB takes both
with_build=yes
if [ "${1:-}" = --no-build ]; then
    with_build=no
    shift
fi
output=${1:-$build/csplade-gpu.tar.gz}

if [ "$with_build" = yes ]; then
    CUDA_HOME=$("$root/scripts/cuda_toolkit.sh")
    export CUDA_HOME
    cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >&2
    cmake --build "$build" --target csplade_native conformance_plain -j "${JOBS:-$(nproc)}" >&2
fi

# A lent machine's time is not for finding out that two builds were mixed.
if CSPLADE_CUDA_PLUGIN=$build/libcsplade_cuda.so "$build/csplade" doctor 2>/dev/null |
    grep "^backend.*belongs to another csplade" >&2; then
    echo "gpu_bundle.sh: csplade and its libcsplade_cuda.so in $build are of different builds: build both" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
top=$work/csplade-gpu
mkdir -p "$top/bin" "$top/lib" "$top/share" "$top/src/host" "$top/tests" "$top/scripts"

strip -o "$top/bin/csplade" "$build/csplade"
strip -o "$top/bin/conformance" "$build/tests/native/conformance"
for program in "$build"/tests/native/native_test_*; do
    strip -o "$top/bin/$(basename "$program" | sed s/^native_//)" "$program"
done
strip -o "$top/lib/libcsplade_cuda.so" "$build/libcsplade_cuda.so"

# Host libraries, but those of glibc, its companion libgcc_s, and CUDA.
for file in "$top"/bin/* "$top"/lib/libcsplade_cuda.so; do
    ldd "$file" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
done | sort -u | while read -r library; do
    case $(basename "$library") in
    libc.so.* | libgcc_s.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | ld-linux*) ;;
    libcublas* | libcusparse* | libcudart* | libnv* | libcuda*) ;;
    *) cp -L "$library" "$top/lib/" ;;
    esac
done

# What the emulator gets from the conformance program: the GPU is compared with it at once.
"$build/tests/emulator/conformance_plain" --write "$top/share/conformance_emulator.txt"
if [ -f "$root/tests/fixtures/conformance/gpu.txt" ]; then
    cp "$root/tests/fixtures/conformance/gpu.txt" "$top/share/conformance_gpu.txt"
fi

# Sources of what --rebuild compiles again.
cp -r "$root/src/cuda" "$top/src/"
for folder in core ops comm; do
    if [ -d "$root/src/host/$folder" ]; then
        mkdir -p "$top/src/host/$folder"
        cp "$root/src/host/$folder"/*.h "$top/src/host/$folder/"
    fi
done
cp -r "$root/tests/conformance" "$top/tests/"
mkdir "$top/tests/cli" # what the part "program" runs
cp "$root"/tests/cli/{test_gpu_machine,workspace,ranks_job}.py "$top/tests/cli/"
cp "$root/scripts/gpu.sh" "$top/"
cp "$root"/scripts/gpu_run.py "$root"/scripts/bench_gpu*.py "$root/scripts/demo.py" "$top/scripts/"
mkdir "$top/configs"
cp "$root"/configs/{base,demo}.yaml "$top/configs/"
demo=${DEMO_DIR:-$root/demo-wordnet}
if [ -f "$demo/done.data" ]; then
    tar -C "$demo" --owner=0 --group=0 --numeric-owner -cJf "$top/share/demo.tar.xz" done.data beir
else
    echo "gpu_bundle.sh: without the demo's text, which scripts/demo.sh makes in $demo" >&2
fi
cp "$root/LICENSE" "$root/VERSION" "$top/"

python3 - "$top" "$build/csplade" <<'PYTHON'
"""Writes manifest.json: what this is, what it needs of the machine, digests of all files."""
import datetime, hashlib, json, os, re, subprocess, sys
top, program = sys.argv[1:]

def said(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout

binaries = [os.path.join(top, folder, name) for folder in ("bin", "lib")
            for name in sorted(os.listdir(os.path.join(top, folder)))]
glibc = max((tuple(map(int, found)) for path in binaries
             for found in re.findall(r"GLIBC_(\d+)\.(\d+)", said("objdump", "-T", path))))
needed = sorted(set(re.findall(r"NEEDED\s+(lib(?:cu|nv)\S+)",
                               said("objdump", "-p", os.path.join(top, "lib/libcsplade_cuda.so")))))
# What these open or need in turn lies beside them in every distribution of CUDA.
digests = {}
for folder, _, names in os.walk(top):
    for name in sorted(names):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            digests[os.path.relpath(path, top)] = hashlib.sha256(file.read()).hexdigest()
with open(os.path.join(top, "manifest.json"), "w") as file:
    json.dump({"program": said(program, "--version").strip(), "made": str(datetime.date.today()),
               "machine": os.uname().machine, "glibc": "%d.%d" % glibc,
               "cuda_libraries": needed, "sha256": digests}, file, indent=1)
    file.write("\n")
print("needs glibc %d.%d, %s" % (*glibc, ", ".join(needed)))
PYTHON

mkdir -p "$(dirname "$output")"
tar -C "$work" --owner=0 --group=0 --numeric-owner -cf - csplade-gpu | gzip -9 >"$output.partial"
bytes=$(stat -c %s "$output.partial")
if [ "$bytes" -gt "$most_bytes" ]; then
    echo "gpu_bundle.sh: $bytes bytes, the limit is $most_bytes: $(du -a "$top" | sort -rn | head -8)" >&2
    rm -f "$output.partial"
    exit 1
fi
mv "$output.partial" "$output"
echo "$output, $bytes bytes"
