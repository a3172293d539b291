#!/usr/bin/env python3
"""The bundle for a bare GPU machine: its size, that it runs elsewhere, what gpu.sh says without a device and
does with one (the emulated backend takes the place of the plugin). Arguments: the program, the source folder."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM, SOURCE = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
BUILD = PROGRAM.parent
EMULATED = BUILD / "emulated/libcsplade_cuda_emu.so"
CHECKER = """#!/bin/sh
[ "$1" != --help ] || { echo "--kernel-regex arg"; exit 0; }
[ -z "$REFUSED" ] || { echo "========= Error: Device not supported."; exit 1; }
while case $1 in --*) true ;; *) false ;; esac; do shift 2; done
case $1 in */test_norm) echo "========= ERROR SUMMARY: 3 errors"; exit 86 ;; esac
[ -n "$CSPLADE_SMALL_SHAPES" ] && exec "$@"
"""
failures = []


def expect(condition, what, result=None):
    if not condition:
        failures.append(what if result is None else f"{what}: status {result.returncode}\n{result.stdout}{result.stderr}")


def run(*words, **environment):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})


def items(folder):
    return json.loads((folder / "results.json").read_text())["items"]


def check_without_device(top, folder):
    """Everything up to "there is no device", named."""
    out = folder / "absent"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also of a machine that has one
    result = run(top / "gpu.sh", "--output", out)
    expect(result.returncode == 77 and "no device" in result.stdout, "gpu.sh without a device", result)
    found = items(out)
    expect(found["parity"]["status"] == "skipped" and "no device" in found["parity"]["reason"], f"parity: {found}")
    for name in ("report.txt", "bench.json", "results.json"):
        expect((out / name).exists(), f"{name} is not written")
    expect(run(top / "gpu.sh", "run", "csplade", "--version").returncode == 0, "gpu.sh run csplade")
    expect(run(top / "gpu.sh", "--only", "nothing").returncode == 2, "a part that is none")
    for program in (top / "bin").iterdir():
        missing = [line for line in run("ldd", program, LD_LIBRARY_PATH=str(top / "lib")).stdout.split("\n")
                   if "not found" in line]
        expect(not missing, f"{program.name} needs {missing}")
    native = run(top / "bin/test_norm", "cuda:0", LD_LIBRARY_PATH=str(top / "lib"))
    expect(native.returncode == 77 and "skipped: " in native.stderr, "test_norm without a device", native)
    del os.environ["CUDA_VISIBLE_DEVICES"]


def check_with_emulated(top, folder):
    """The plugin replaced: refused first, then as --rebuild leaves it."""
    library = top / "lib/libcsplade_cuda.so"
    shutil.copy(library, folder / "genuine.so")
    shutil.copy(EMULATED, library)
    result = run(top / "gpu.sh", "--output", folder / "changed")
    expect(result.returncode == 5 and "libcsplade_cuda.so is not as it was packed" in result.stderr, "a changed file",
           result)
    shutil.copy(folder / "genuine.so", str(library) + ".shipped")
    for program in (top / "bin").iterdir():
        if program.name.startswith("test_") and program.name not in ("test_norm", "test_swiglu"):
            program.unlink()
    manifest = json.loads((top / "manifest.json").read_text())
    manifest["sha256"] = {}
    manifest["cuda_libraries"] = []
    (top / "manifest.json").write_text(json.dumps(manifest))
    out, tools = folder / "emulated", folder / "tools"
    tools.mkdir()
    (tools / "compute-sanitizer").write_text(CHECKER)
    (tools / "compute-sanitizer").chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "CSPLADE_SMALL_SHAPES": "1"}
    words = [top / "gpu.sh", "--only", "doctor,parity,memcheck", "--output", out]
    result = run(*words, **environment)
    found = items(out)
    expect(result.returncode == 1, "with an error found by a checker", result)
    expect(found["parity/test_norm"]["status"] == "passed", f"test_norm: {found}", result)
    expect(found["memcheck/test_norm"]["reason"] == "========= ERROR SUMMARY: 3 errors", f"memcheck: {found}")
    expect(found["memcheck/test_swiglu"]["status"] == "passed", f"memcheck: {found}")
    expect("csplade emulator" in (out / "report.txt").read_text(), "the report names the device")
    again = run(*words, **environment)
    expect("parity/test_norm" not in again.stdout and again.returncode == 1, "what is done is not done again", again)
    check_next_runs(top, folder, environment)
    short = run(*words, "--time", "3", "--again", **environment)
    expect(short.returncode in (1, 3) and "parity/test_swiglu" not in short.stdout, "without time", short)


def check_next_runs(top, folder, environment):
    """What fails in parity is looked at at once; a checker that refuses the device is asked once; a killed run's
    programs are ended; results of another bundle are put aside; what the part "program" needs is there."""
    out = folder / "next"
    (top / "bin/test_rope").write_text("#!/bin/sh\nsleep 0.1\nexit 3\n")
    (top / "bin/test_rope").chmod(0o755)
    result = run(top / "gpu.sh", "--only", "doctor,parity", "--output", out, **environment)
    expect("parity/test_rope" in result.stdout.split("memcheck/test_rope")[0] and
           [n for n in items(out) if "memcheck/test" in n] == ["memcheck/test_rope"], "memcheck of what failed", result)
    (top / "bin/test_rope").unlink()
    result = run(top / "gpu.sh", "--only", "doctor,racecheck,synccheck", "--output", out, REFUSED="1", **environment)
    found = {n: i["status"] for n, i in items(out).items() if "check" in n and "memcheck" not in n}
    expect(found == {"racecheck/conformance": "skipped", "synccheck": "skipped"}, found)
    words = [sys.executable, top / "tests/cli/test_gpu_machine.py", top / "bin/csplade", top, "a_plan_is_of_the_device"]
    program = run(*words, CSPLADE_CUDA_PLUGIN=str(top / "lib/libcsplade_cuda.so"))
    expect(program.returncode == 0 and "a plan is of" in program.stdout, "the part program", program)
    (top / "bin/test_hang").write_text(f"#!/bin/sh\necho $$ >{folder}/pid\nsleep 60\n")
    (top / "bin/test_hang").chmod(0o755)
    manifest = json.loads((top / "manifest.json").read_text())
    (top / "manifest.json").write_text(json.dumps({**manifest, "program": "another"}))
    with subprocess.Popen([top / "gpu.sh", "--only", "doctor,parity", "--output", out], stdout=subprocess.PIPE,
                          env={**os.environ, **environment}) as process:
        while process.poll() is None and not (folder / "pid").exists():
            time.sleep(0.05)
        process.terminate()
    hung, deadline = Path("/proc", (folder / "pid").read_text().strip(), "stat"), time.monotonic() + 10
    while time.monotonic() < deadline and hung.exists() and hung.read_text().split()[2] != "Z":
        time.sleep(0.05)
    expect(process.returncode == 143 and time.monotonic() < deadline, f"ended by a signal: {process.returncode}")
    expect(len(list(out.iterdir())) <= 8 and (out / "results-earlier.json").exists() and
           "memcheck/test_rope" not in items(out), list(out.iterdir()))
    (top / "bin/test_hang").unlink()


def main():
    if not (BUILD / "tests/native/conformance").exists() or not EMULATED.exists():
        print("skipped: this build has no CUDA backend")
        sys.exit(77)
    os.environ.pop("CSPLADE_CUDA_PLUGIN", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "elsewhere.tar.gz"
        result = run(SOURCE / "scripts/gpu_bundle.sh", "--no-build", archive, BUILD_DIR=str(BUILD))
        expect(result.returncode == 0, "gpu_bundle.sh", result)
        if not failures:
            expect(archive.stat().st_size <= 56_000_000, f"{archive.stat().st_size} bytes")
            (folder / "there").mkdir()
            subprocess.run(["tar", "-C", folder / "there", "-xzf", archive], check=True)
            top = folder / "there/csplade-gpu"
            check_without_device(top, folder)
            check_with_emulated(top, folder)
    unmade = run(SOURCE / "scripts/gpu.sh")
    expect(unmade.returncode == 2 and "not an unpacked bundle" in unmade.stderr, "gpu.sh of the source", unmade)
    for failure in failures:
        print("FAILED", failure)
    sys.exit(1 if failures else 0)


main()
