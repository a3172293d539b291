#!/usr/bin/env python3
"""The CUDA backend's library: found, refused in words, asked what it is. Needs no GPU: libraries are
made here from a few lines of C. Arguments: the program, the source folder."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
failures = []

PLUGIN = """
#include <stdio.h>
#include "ops/plugin.h"
#include "ops/table.h"

static csp_status refuse(const char *name, int threads, csp_backend **out)
{
    return CSP_FAIL(CSP_ERR_DEVICE, "%s: a pretended reason", name);
}

static csp_status describe(char *text, size_t bytes)
{
    snprintf(text, bytes, "pretended 1.0\\ncuda:0 pretended device\\n");
    return CSP_OK;
}

const csp_plugin csp_cuda_plugin = { CSP_PLUGIN_INTERFACE + OFFSET, sizeof(struct csp_ops), "cuda",
                                     refuse, describe };
"""


def run(plugin, *words):
    environment = dict(os.environ, CSPLADE_CUDA_PLUGIN=str(plugin))
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False,
                          env=environment)


def expect(condition, what):
    if not condition:
        failures.append(what)


def check(plugin, reason):
    """A library that gives no device: named by doctor, exit 5 where asked for, passed by auto."""
    doctor = run(plugin, "doctor")
    expect(doctor.returncode == 0 and reason in doctor.stdout,
           f"doctor does not say {reason}: {doctor.stdout}")
    expect("auto       takes cpu" in doctor.stdout, f"auto: {doctor.stdout}")
    expect("cuda is not used: " in doctor.stderr and reason in doctor.stderr,
           f"auto does not say why: {doctor.stderr}")
    asked = run(plugin, "encode", "--model", "none", "--device", "cuda", "--input", "none",
                "--output", "none")
    expect(asked.returncode == 5 and reason in asked.stderr,
           f"--device cuda: {asked.returncode} {asked.stderr}")


def check_commands(plugin, reason):
    """Every command that computes takes a device: refused with 5 by name, the CPU with a line by auto."""
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "config.yaml"
        config.write_text("model: {path: none}\ndata: {text: [none]}\n"
                          f"run: {{output_dir: {name}/run, phases: [adapt]}}\n")
        vectors = Path(name) / "docs.jsonl"
        vectors.write_text('{"id": "a", "vector": {"1": 0.5}}\n')
        for words in (["train", config, "--device"], ["bench", "sgemm", "--device"],
                      ["search", "--index", vectors, "--model", "none", "--query", "x", "--device"]):
            words = [str(word) for word in words]
            for device in ("cuda", "cuda:1"):
                got = run(plugin, *words, device)
                expect(got.returncode == 5 and reason in got.stderr, f"{words} {device}: {got.stderr}")
            got = run(plugin, *words, "auto")
            expect(got.returncode != 5 and "cuda is not used: " in got.stderr and
                   reason in got.stderr, f"{words} auto: {got.returncode} {got.stderr}")
            got = run(plugin, *words, "cpu")
            expect(got.returncode != 5 and reason not in got.stderr, f"{words} cpu: {got.stderr}")
            got = run(plugin, *words, "gpu")
            expect(got.returncode == 2 and "gpu: no such device" in got.stderr,
                   f"{words} gpu: {got.returncode} {got.stderr}")
        got = run(plugin, "train", str(config), "device.name=cuda:1")
        expect(got.returncode == 5 and reason in got.stderr, f"device.name: {got.stderr}")


def build_on_an_absent_library(folder):
    """A plugin that needs a library which is not there, as where cuBLAS is not installed."""
    (folder / "blas.c").write_text("int blas(void) { return 1; }\n")
    (folder / "needs.c").write_text("int blas(void);\nint use(void) { return blas(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "blas.c", "-o", "libabsentblas.so"], cwd=folder, check=True)
    subprocess.run(["cc", "-shared", "-fPIC", "needs.c", "-o", "needs.so", "-L.", "-labsentblas"],
                   cwd=folder, check=True)
    (folder / "libabsentblas.so").unlink()
    return folder / "needs.so"


def check_libraries_of_cuda(folder):
    """A library of CUDA that the loader does not find, or that lacks a function: named, with its wheel."""
    for library, function, name, wheel in (
            ("cublasLt", "cublasLtMatmul", "cuBLASLt", "nvidia-cublas"),
            ("cublas", "cublasGemmEx", "cuBLAS", "nvidia-cublas")):
        file, needs = f"lib{library}.so.99", folder / f"needs_{library}.so"
        (folder / "new.c").write_text(f"int {function}(void) {{ return 1; }}\nint kept(void) {{ return 1; }}\n")
        (folder / "old.c").write_text("int kept(void) { return 1; }\n")
        (folder / "needs.c").write_text(f"int {function}(void);\nint kept(void);\n"
                                        f"int use(void) {{ return {function}() + kept(); }}\n")
        make = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file]
        subprocess.run([*make, "new.c"], cwd=folder, check=True)
        subprocess.run(["cc", "-shared", "-fPIC", "needs.c", "-o", needs, f"./{file}", f"-Wl,-rpath,{folder}"],
                       cwd=folder, check=True)
        subprocess.run([*make, "old.c"], cwd=folder, check=True)
        check(needs, f"undefined symbol: {function}; the {name} there is too old: install a later CUDA "
                     f"toolkit, or pip's {wheel}, and name its folder in LD_LIBRARY_PATH")
        (folder / file).unlink()
        check(needs, f"needs {name}, and the loader finds no {file}: install the CUDA toolkit, or pip's "
                     f"{wheel}, and name its folder in LD_LIBRARY_PATH")


def build(folder, name, offset):
    source, library = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(PLUGIN)
    subprocess.run(["cc", "-shared", "-fPIC", f"-DOFFSET={offset}", f"-I{SOURCE / 'src/host'}",
                    str(source), "-o", str(library)], check=True)
    return library


def check_what_is_beside():
    """Without the variable: the library of this build, or a sentence that there is none."""
    doctor = run("", "doctor")
    library = Path(PROGRAM).parent / "libcsplade_cuda.so"
    line = [line for line in doctor.stdout.split("\n") if line.startswith("backend    cuda:")]
    expect(line, f"doctor says nothing of cuda: {doctor.stdout}")
    if library.exists():
        expect(line[:1] and str(library) in line[0], f"doctor: {line}")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check(folder / "absent.so", "absent.so cannot be opened")
        check_commands(folder / "absent.so", "absent.so cannot be opened")
        (folder / "text.so").write_text("no library at all, but long enough to be looked at\n" * 9)
        check(folder / "text.so", "invalid ELF header")
        check("libm.so.6", "libm.so.6: no plugin of csplade")
        if shutil.which("cc"):
            check(build(folder, "other", 1), "belongs to another csplade")
            check(build_on_an_absent_library(folder), "libabsentblas.so: cannot open shared object")
            check_libraries_of_cuda(folder)
            fitting = build(folder, "fitting", 0)
            check(fitting, "pretended")
            doctor = run(fitting, "doctor").stdout
            expect(f"backend    cuda: pretended 1.0, {fitting}" in doctor, doctor)
            expect("device     cuda:0 pretended device" in doctor, doctor)
    check_what_is_beside()
    for failure in failures:
        print("FAILED", failure)
    sys.exit(1 if failures else 0)


main()
