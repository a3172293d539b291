#!/usr/bin/env python3
"""The conformance program on the emulator.

    test_conformance.py itself PROGRAM FIXTURE   agrees with what it wrote itself, also under other
                                                 schedules; sees a word that differs, a case that is
                                                 missing, another format
    test_conformance.py gpu PROGRAM FIXTURE      agrees with what a GPU wrote; skipped (77) without that
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WHAT, PROGRAM, FIXTURE = sys.argv[1], sys.argv[2], Path(sys.argv[3])
failures = []


def run(*words, **environment):
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})


def expect(condition, what, result):
    if not condition:
        failures.append(f"{what}: status {result.returncode}\n{result.stdout}{result.stderr}")


def change(text, case, word, value):
    """The file with one word of a case replaced."""
    lines = text.split("\n")
    at = lines.index(f"case {case}") + 2 + word // 8
    words = lines[at].split(" ")
    words[word % 8] = value
    lines[at] = " ".join(words)
    return "\n".join(lines)


def check_refused(folder, name, text, reason):
    path = folder / name
    path.write_text(text)
    result = run("--compare", path)
    expect(result.returncode == 1 and reason in result.stdout + result.stderr, name, result)


def check_itself():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = folder / "written.txt"
        result = run("--write", written)
        expect(result.returncode == 0, "--write", result)
        cases = run("--list").stdout.split("\n")[:-1]
        for seed in ("2", "3"):
            result = run("--compare", written, CSP_EMU_SEED=seed)
            expect(result.returncode == 0 and result.stdout.count("agrees  ") == len(cases),
                   f"--compare with seed {seed}", result)
        text = written.read_text()
        check_refused(folder, "bits", change(text, "shuffles", 9, "00000001"), "differs  shuffles: 1 of")
        # 1 + 2^-19 in place of what is near 1 is far beyond the limit of an exponential.
        check_refused(folder, "relative", change(text, "expf", 100, "3f800010"), "differs  expf: 1 of")
        check_refused(folder, "sum", change(text, "mma of bf16", 0, "42c80000"),
                      "differs  mma of bf16: 1 of")
        check_refused(folder, "nan", change(text, "expf", 100, "7fc00000"), "differs  expf: 1 of")
        check_refused(folder, "short", text[:len(text) // 2], "differs")
        check_refused(folder, "absent", text.replace("case votes", "case vote"), "differs  votes: the file has")
        check_refused(folder, "other", text.replace("conformance 1", "conformance 0"), "does not begin with")
        absent = run("--compare", folder / "nothing.txt")
        expect(absent.returncode == 77 and "no GPU has written it yet" in absent.stderr, "absent", absent)
        nowhere = run("--write", folder / "none" / "file.txt")
        expect(nowhere.returncode == 1, "a folder that is not there", nowhere)


def check_gpu():
    result = run("--compare", FIXTURE)
    print(result.stdout + result.stderr, end="")
    if result.returncode == 77:
        sys.exit(77)
    expect(result.returncode == 0, "the emulator and the GPU", result)


check_itself() if WHAT == "itself" else check_gpu()
for failure in failures:
    print("FAILED", failure)
sys.exit(1 if failures else 0)
