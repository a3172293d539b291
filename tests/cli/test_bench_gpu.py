#!/usr/bin/env python3
"""scripts/bench_gpu.py without PyTorch: its plan, and its table with a stand-in for the peers. Arguments: the
program, the source folder."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
SCRIPT = SOURCE / "scripts/bench_gpu.py"
# Answers for bench_gpu_torch.py: a second for 100 tokens; one side is not installed.
PEER = """#!/bin/sh
case $3 in *compile) echo "no compiler here" >&2; exit 1 ;; esac
echo "{\\"case\\": \\"$2\\", \\"side\\": \\"$3\\", \\"seconds\\": 1.0, \\"tokens\\": 100, \\"queries\\": 1, \\"peak_mb\\": 7.0}"
"""
failures = []


def run(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


def expect(condition, what, result):
    if not condition:
        failures.append(f"{what}: status {result.returncode}\n{result.stdout}{result.stderr}")


def check_plan():
    plan = run("--dry-run")
    expect(plan.returncode == 0, "--dry-run", plan)
    cases = {line.split()[0] for line in plan.stdout.splitlines()}
    expect(cases == {f"K{i}" for i in range(1, 12)} | {"S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "M1"}, "all cases", plan)
    known = subprocess.run([PROGRAM, "bench", "--help"], capture_output=True, text=True, check=False).stdout
    for line in plan.stdout.splitlines():
        words = line.split()
        if words[2:3] == ["bench"]:
            expect(words[3] in known.replace(",", " ").replace(":", " ").split(), f"csplade bench {words[3]}", plan)
    page = (SOURCE / "docs/benchmarks/gpu.md").read_text()
    for case in cases:
        expect(f"\n| {case} | " in page, f"{case} is not in docs/benchmarks/gpu.md", plan)
    expect(run("K99").returncode == 2, "K99", plan)


def check_table(folder):
    peer = folder / "peer.sh"
    peer.write_text(PEER)
    peer.chmod(0o755)
    words = ["--csplade", PROGRAM, "--python", peer, "--device", "cpu", "--tiny", "--rounds", "2"]
    table = run(*words, "K1", "K2", "M1")
    expect(table.returncode == 0 and "| K1 | head fwd / bare product | " in table.stdout, "a table", table)
    expect("Tevatron compiled / ours | - | >= 1.2 | 1.05 | not measured |" in table.stdout, "an absent peer", table)
    expect("tevatron-compile was not measured: no compiler here" in table.stdout, "its reason", table)
    expect("| goal |" in table.stdout, "a goal", table)
    lines = [json.loads(line) for line in run(*words, "--json", "K9", "S3").stdout.splitlines()]
    measured = [(line["case"], line["side"]) for line in lines if "measured" in line]
    # Two rows of K9, one of S1, in each of two rounds; the peer of S3 is not there.
    if measured != [("K9", "csplade")] * 4 + [("S3", "csplade")] * 2 or "measured" not in lines[0]:
        failures.append(f"--json: each row as it comes: {lines}")
    rows = [line for line in lines if "measured" not in line]
    if [row["case"] for row in rows] != ["K9", "K9", "S3"] or rows[2]["verdict"] != "not measured":
        failures.append(f"--json: {rows}")
    # A CPU is nowhere near a GPU's rate.
    if rows and rows[0]["verdict"] != "MISSED":
        failures.append(f"a missed goal: {rows[0]}")


check_plan()
with tempfile.TemporaryDirectory() as name:
    check_table(Path(name))
for failure in failures:
    print("FAILED", failure)
sys.exit(1 if failures else 0)
