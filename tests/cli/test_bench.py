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
         "S1": (1, "share_of_ideal"), "S4": (1, "mfu"), "S5": (2, "share_of_ideal"), "S6": (2, "share_of_ideal"),
         "S7": (1, "docs_per_s"), "S8": (1, "tokens_per_s"), "M1": (1, "queries")}
if EMULATED.exists():
    CASES["K1"] = (2, "ratio_to_product")  # by tiles and fused
    CASES["K6"] = (3, "cusparse_over_own")  # a CPU has one way only
    CASES["S8"] = (2, "tokens_per_s")  # with graphs and without
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
    if name == "S8" and [row["graphs"] for row in own] != [1, 0][:count] and device != "cpu":
        failures.append(f"S8: graphs in rows {own}")
    for row in rows:
        if "seconds" in row and not 0 < row["low"] <= row["seconds"] <= row["high"]:
            failures.append(f"{name}: {row}")


# What every contrastive step calls, and what only full training does.
OPS = {"linear_fwd", "linear_bwd", "norm_fwd", "norm_bwd", "attention_fwd", "attention_bwd", "swiglu_fwd", "swiglu_bwd",
       "embed_fwd", "sparse_pool_fwd", "sparse_pool_bwd", "scores_fwd", "scores_bwd", "nce_scores", "nce_sum", "nce_grad", "column_sums",
       "regularize", "grad_squares", "adamw"}


def check_profile(name, profiles, ops):
    """Rows of a step's ops: complete, with a formula each, adding up to the step; and what is to be fixed next."""
    device = "cuda:0" if EMULATED.exists() else "cpu"
    result = run(name, "--device", device, "--tiny", "--steps", "2", "--warmup", "1", "--profile", "--format", "json")
    if result.returncode != 0:
        failures.append(f"{name} --profile: status {result.returncode}: {result.stderr}")
        return
    rows = [row for row in map(json.loads, result.stdout.splitlines()) if row["case"] == name + " profile"]
    starts = [i for i, row in enumerate(rows) if "step_ms" in row] + [len(rows)]
    if len(starts) != profiles + 1 or starts[0] != 0:
        failures.append(f"{name} --profile: {result.stdout}")
        return
    for first, last in zip(starts, starts[1:]):
        head, lines, following = rows[first], rows[first + 1:last - 1], rows[last - 1]
        found = {row["what"].split()[0] for row in lines}
        if not ops <= found or "between" not in found:
            failures.append(f"{name} --profile: no rows of {ops - found}")
        unknown = [row["what"] for row in lines if row["formula"] != 1]
        if unknown:
            failures.append(f"{name} --profile: no formula for {unknown}: src/host/cli/bench_profile.c")
        if not abs(sum(row["ms"] for row in lines) / head["step_ms"] - 1) < 1e-3:
            failures.append(f"{name} --profile: rows do not add up to {head}")
        lost = [row["lost_ms"] for row in lines]
        if lost != sorted(lost, reverse=True) or any(row["calls"] <= 0 for row in lines[1:] if row["what"] != "between ops"):
            failures.append(f"{name} --profile: {lines}")
        if following["what"] != "next to fix" or following["op"] != lines[0]["what"] or lines[0]["what"] not in following["said"]:
            failures.append(f"{name} --profile: {following}")
        # Of the tiny model: 32 wide, 16 for k and v, 64 in the middle; 2 layers, 26 tokens, adapters of rank 16.
        flop = {row["what"]: row["gflop"] * 1e9 for row in lines}
        rank = 0 if "embed_bwd" in ops else 16
        for maps, weights, adapted in (("q k v", 32 * 64, 3 * 32 + 64), ("o", 32 * 32, 64),
                                       ("gate up", 32 * 128, 2 * 32 + 128), ("down", 64 * 32, 96)):
            want = 2 * 2 * 26 * (weights + rank * adapted)
            if not abs(flop.get("linear_fwd " + maps, 0) / want - 1) < 1e-5:
                failures.append(f"{name} --profile: {maps}: {want}, {flop}")


def main():
    for name, (count, figure) in CASES.items():
        check_case(name, count, figure)
    check_profile("S1", 1, OPS)
    check_profile("S4", 1, OPS | {"embed_bwd"})
    check_profile("S5", 2, OPS)
    check_profile("S8", 1, OPS | {"embed_bwd"})
    said = run("S8", "--device", "cpu", "--tiny", "--steps", "1", "--profile")
    if said.returncode != 0 or "S8 profile: next to fix: " not in said.stdout:
        failures.append(f"S8 --profile as text: {said.stdout}{said.stderr}")
    refused = run("K1", "--tiny", "--profile")
    if refused.returncode == 0 or "--profile is of S1" not in refused.stderr:
        failures.append(f"K1 --profile: {refused.stderr}")
    for words, option in ((["S1", "--tiny", "--vocab", "100"], "vocab"), (["ceilings", "--lora"], "lora"),
                          (["comm", "--precision", "fp32"], "precision"), (["sgemm", "--layers", "2"], "layers"),
                          (["step", "--min-bytes", "8"], "min-bytes"), (["--tiny"], "tiny")):
        refused = run(*words)
        if refused.returncode != 2 or f"does not look at --{option}" not in refused.stderr:
            failures.append(f"{words}: {refused.returncode} {refused.stderr}")
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
