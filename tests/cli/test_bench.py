#!/usr/bin/env python3
"""csplade bench: each case that has shapes of its own, tiny, on the emulated device or else on the CPU.
Times are not looked at. Arguments: the program, the source folder."""
import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = sys.argv[1]
EMULATED = Path(PROGRAM).parent / "emulated/libcsplade_cuda_emu.so"
# Rows of each case, and a figure that they have.
CASES = {"ceilings": (0, None), "K1": (1, "ratio_to_product"), "K3": (3, "ratio_to_product"),
         "K4": (1, "bwd_ms"), "K5": (1, "transient_mb"), "K7": (1, "ratio_to_products"), "K8": (2, "share_of_copy"),
         "K9": (2, "tflop_per_s"), "K10": (5, "share_of_copy"), "K11": (1, "overhead_percent"),
         "S1": (1, "share_of_ideal"), "S4": (1, "mfu"), "S5": (2, "share_of_ideal"), "S7": (1, "docs_per_s"),
         "S8": (1, "tokens_per_s"), "M1": (1, "queries")}
if EMULATED.exists():
    CASES["K6"] = (3, "cusparse_over_own")  # a CPU has one way only
failures = []


def run(*words, **variables):
    environment = dict(os.environ, **variables)
    if EMULATED.exists():
        environment["CSPLADE_CUDA_PLUGIN"] = str(EMULATED)
    return subprocess.run([PROGRAM, "bench", *words], capture_output=True, text=True, check=False, env=environment)


def check_case(name, count, figure):
    device = "cuda:0" if EMULATED.exists() else "cpu"
    words = [name, "--device", device, "--tiny", "--steps", "2", "--warmup", "1"]
    result = run(*words, "--format", "json")
    if result.returncode != 0:
        failures.append(f"{name}: status {result.returncode}: {result.stderr}")
        return
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    own = [row for row in rows if row["case"] == name and name != "ceilings"]
    if [row["what"] for row in rows[:2]] != ["product", "copy"] or len(own) != count:
        failures.append(f"{name}: {result.stdout}")
    for row in own:
        if not isinstance(row.get(figure), (int, float)) or row["device"] not in (device, "cpu"):
            failures.append(f"{name}: {row}")
    for row in rows:
        if "seconds" in row and not 0 < row["low"] <= row["seconds"] <= row["high"]:
            failures.append(f"{name}: {row}")


def main():
    for name, (count, figure) in CASES.items():
        check_case(name, count, figure)
    text = run("K10", "--device", "cpu", "--tiny", "--steps", "1")
    if text.returncode != 0 or "swiglu fwd" not in text.stdout or "share_of_copy" not in text.stdout:
        failures.append(f"as text: {text.stdout}{text.stderr}")
    unknown = run("K99")
    if unknown.returncode == 0 or "none of the cases" not in unknown.stderr:
        failures.append(f"K99: {unknown.stderr}")
    if EMULATED.exists():
        missing = run("K6", "--device", "cuda:0", "--tiny", CSP_EMU_CUSPARSE="0")
        if missing.returncode != 5 or "cuSPARSE was asked for and cannot be opened" not in missing.stderr:
            failures.append(f"K6 without cuSPARSE: {missing.returncode} {missing.stderr}")
    for failure in failures:
        print("FAILED", failure)
    sys.exit(1 if failures else 0)


main()
