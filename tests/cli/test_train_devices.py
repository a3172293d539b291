#!/usr/bin/env python3
"""csplade train on several emulated GPUs, which exchange tensors by the emulator's NCCL: the curve of
one, and what is said where they cannot be joined. Arguments: the program, the source folder."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from test_train_ranks import Job, expect_curve
from workspace import run_tests

EMULATED = Path(sys.argv[1]).parent / "emulated/libcsplade_cuda_emu.so"
FEW = ["device.name=cuda", "device.precision=fp32", "run.phases=[contrastive]", "contrastive.max_steps=3",
       "run.save_steps=0"]


def devices(count, **more):
    """The emulated machine that runs of this process see from now on."""
    os.environ.update(CSPLADE_CUDA_PLUGIN=str(EMULATED), CSP_EMU_DEVICES=str(count), **more)


def ranks_follow_the_curve_of_one(w):
    devices(2)
    w.expect_exit(w.train("one", *FEW, "device.threads=1"), 0)
    for name in ("two", "again"):
        results = Job(w, 2, name, *FEW).wait()
        for result in results:
            w.expect_exit(result, 0)
        w.expect("2 devices joined by NCCL 2.28.9" in results[0].stderr, results[0].stderr)
        w.expect("NCCL_NVLS_ENABLE 0" in results[0].stderr, results[0].stderr)
    expect_curve(w, "two", "one")
    for row in w.metrics("two"):
        w.expect(row["ranks"] == 2 and 0 <= row["rank_wait"] <= 1 and row["rank_sent_mb"] > 0, row)
    last = "contrastive-00000003.h5"
    w.expect(w.checkpoint("two", last) == w.checkpoint("again", last), "not the same bytes")
    w.remove("one", "two", "again")


def go_back(w, name, file):
    """The run stands again at an earlier checkpoint of its own."""
    folder = w.folder / name / "checkpoints"
    for later in w.checkpoints(name):
        if later > file:
            (folder / later).unlink()
    (folder / "LATEST").write_text(file)


def expect_warnings(w, result, *wanted):
    """All of what is said to change sums, and nothing else."""
    said = [line for line in result.stderr.splitlines() if "to rounding only" in line]
    w.expect(len(said) == len(wanted) and all(any(words in line for line in said) for words in wanted),
             f"{wanted}: {result.stderr}")


def who_goes_on_otherwise_is_told(w):
    """Another NCCL, other variables, other ranks; the same: the same bytes, and not a word."""
    first, last = "contrastive-00000001.h5", "contrastive-00000002.h5"
    saving = [*FEW, "contrastive.max_steps=2", "contrastive.batch.queries=4", "run.save_steps=1"]
    devices(4)
    for result in Job(w, 2, "s", *saving).wait():
        w.expect_exit(result, 0)
    whole = w.checkpoint("s", last)
    for size, more, wanted in (
            (2, {"NCCL_DEBUG": "WARN"}, []),
            (4, {"NCCL_ALGO": "Ring", "CSP_EMU_NCCL": "22703", "NCCL_NVLS_ENABLE": "1",
                 "CSP_EMU_DRIVER": "13010", "CSP_EMU_CUBLAS": "130203"},
             ["ranks was 2 before and is 4 now", "machines was 1: 1x2 before and is 1: 1x4 now",
              "collectives was NCCL 2.28.9 before and is NCCL 2.27.3 now",
              "NCCL_NVLS_ENABLE was 0 before and is 1 now",
              "driver was CUDA 13.0 before and is CUDA 13.1 now", "and is 13.2.3 now",
              "NCCL_ALGO is Ring now and was not set before"])):
        go_back(w, "s", first)
        results = Job(w, size, "s", *saving, env={**os.environ, **more}).wait()
        for result in results:
            w.expect_exit(result, 0)
        expect_warnings(w, results[0], *wanted)
        if not wanted:
            w.expect(w.checkpoint("s", last) == whole, "not the same bytes")
    w.remove("s")


def rank_0_chooses_algorithms_for_all(w):
    """By timing, on rank 0 another one than on rank 1, whose sums would differ when it goes on with those
    of rank 0, chosen in steps and in evaluations. A rank of another type chooses its own, and says so."""
    first, second, last = (f"contrastive-0000000{n}.h5" for n in (1, 2, 3))
    # By this seed the third step has products on rank 1 that were new to rank 0 in the evaluation.
    timed = [*FEW, "contrastive.batch.queries=2", "model.passage_max_len=8", "run.seed=3",
             "run.save_steps=1", "device.tune_products=true", "data.dev_qrels=beir/qrels/dev.tsv",
             "run.eval_steps=2", "eval.queries=1", "eval.pool=20"]
    devices(2)
    same = {r: ["env", f"CSP_EMU_BLASLT_FAVOUR={1 - r}"] for r in range(2)}
    for other in (False, True):
        before = {0: same[0], 1: [*same[1], "CSP_EMU_DEVICE_NAME=other"]} if other else same
        for rank, result in enumerate(Job(w, 2, "u", *timed, "--dry-run", before=before).wait()):
            w.expect_exit(result, 0)
            w.expect((rank == 1 and other) == ("this rank chooses its own" in result.stderr), result.stderr)
    whole = []
    for onwards in (first, second, first):
        for result in Job(w, 2, "t", *timed, before=same).wait():
            w.expect_exit(result, 0)
        whole.append(w.checkpoint("t", last))
        go_back(w, "t", onwards)
    w.expect(whole[0] == whole[1], "not the same bytes from the first step on")
    w.expect(whole[0] == whole[2], "not the same bytes from the evaluation on")
    w.remove("t", "u")


def ranks_plan_what_fits_on_each(w):
    """One GPU has next to no memory: all plan for that one, or the run could not go on where it was."""
    first, last = "contrastive-00000001.h5", "contrastive-00000002.h5"
    settings = [*FEW, "contrastive.batch.queries=4", "contrastive.max_steps=2", "run.save_steps=1"]
    devices(1)
    least = json.loads(w.must("estimate", "config.yaml", *settings, "contrastive.batch.micro_batch_tokens=256",
                              "run.output_dir=m", "--format", "json").stdout)
    taken = 4096 * 2**20 - least["available_bytes"]
    small = (least["least_bytes"] + taken) // 2**20 + 2
    devices(2)
    before = {0: ["env", "CSP_EMU_MEMORY_MB=4096"], 1: ["env", f"CSP_EMU_MEMORY_MB={small}"]}
    for again in (False, True):
        results = Job(w, 2, "m", *settings, before=before).wait()
        for result in results:
            w.expect_exit(result, 0)
        rows = [int(n) for n in re.findall(r"activations of (\d+) token rows", results[0].stderr)]
        w.expect(len(rows) == 1 and 256 <= rows[0] < 4096, f"rank 0 has room for more: {results[0].stderr}")
        if not again:
            whole = w.checkpoint("m", last)
            go_back(w, "m", first)
    w.expect(w.checkpoint("m", last) == whole, "not the same bytes")
    w.remove("m")


def ranks_that_see_a_device_each_have_that(w):
    """As a launcher shows them: each rank's only one is its number 0."""
    devices(2)
    for shown, code in ((("0", "1"), 0), (("1", "1"), 5)):
        before = {r: ["env", f"CUDA_VISIBLE_DEVICES={shown[r]}"] for r in range(2)}
        for result in Job(w, 2, "own", *FEW, before=before).wait():
            w.expect(result.returncode == code, f"{result.args}: {result.returncode} {result.stderr}")
        w.remove("own")


def what_cannot_be_joined_is_said_by_all(w):
    """No NCCL, an old one, more ranks than GPUs, one GPU for two: exit code 5 on every rank, soon."""
    for count, more, settings, words in (
            (2, {"CSP_EMU_NCCL": "0"}, [], ["NCCL", "install libnccl2, or pip's nvidia-nccl-cu13"]),
            (2, {"CSP_EMU_NCCL": "21003"}, [], ["NCCL 2.14 or later", "2.10.3"]),
            (1, {}, [], ["cuda:1", "start one rank for each device"]),
            (2, {}, ["device.name=cuda:0"], ["Duplicate GPU detected", "a GPU of its own"])):
        devices(count, **more)
        start = time.monotonic()
        results = Job(w, 2, "x", *FEW, *settings).wait()
        for result in results:
            w.expect(result.returncode == 5, f"{result.args}: {result.returncode} {result.stderr}")
        w.expect(time.monotonic() - start < 20, "it took too long")
        for word in words:
            w.expect(word in results[0].stderr, results[0].stderr)
        os.environ.pop("CSP_EMU_NCCL", None)
        w.remove("x")


def one_rank_needs_no_nccl(w):
    devices(1, CSP_EMU_NCCL="0")
    w.expect_exit(Job(w, 1, "x", *FEW).wait()[0], 0)
    for value, words in (("0", "NCCL not found"), ("21003", "NCCL 2.10.3 (too old)")):
        doctor = subprocess.run([w.program, "doctor"], env={**os.environ, "CSP_EMU_NCCL": value},
                                text=True, capture_output=True, check=False)
        w.expect(words in doctor.stdout, doctor.stdout)
    del os.environ["CSP_EMU_NCCL"]
    w.remove("x")


def a_kernel_that_faults_ends_all(w):
    """After the first step. The op is named; without a wait behind each it is where the host waited."""
    count = ["contrastive.batch.queries=4", "device.graphs=off", "run.logging_steps=1"]
    devices(1, CSP_EMU_FAULT_KERNEL="220")
    seen = {}
    for every in ("true", "false"):
        result = w.train("f", *FEW, *count, f"device.sync_every_op={every}")
        w.expect_exit(result, 5, "cudaErrorIllegalAddress", "the last op enqueued was ")
        w.expect("step 1 of 3" in result.stderr and "step 3 of 3" not in result.stderr, result.stderr)
        seen[every] = result.stderr.split("the last op enqueued was ")[-1].strip()
        w.remove("f")
    w.expect(seen["true"] not in ("fetch", "sync", seen["false"]), seen)
    del os.environ["CSP_EMU_FAULT_KERNEL"]
    devices(2)
    start = time.monotonic()
    results = Job(w, 2, "f", *FEW, *count, before={1: ["env", "CSP_EMU_FAULT_KERNEL=220"]}).wait()
    w.expect(time.monotonic() - start < 30, "it took too long")
    for result in results:
        w.expect_exit(result, 5, "cudaErrorIllegalAddress")
    w.expect("rank 1" in results[0].stderr, results[0].stderr)
    w.remove("f")


def a_killed_rank_ends_the_other(w):
    devices(2)
    job = Job(w, 2, "k", *FEW[:-2], "contrastive.max_steps=500", "run.save_steps=0")
    deadline = time.monotonic() + 60
    while not (w.folder / "k/metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    job.ranks[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    results = job.wait()
    w.expect(time.monotonic() - start < 20, "the other took too long")
    w.expect_exit(results[0], 1, "rank 1", "killed, or crashed")
    w.remove("k")


if __name__ == "__main__":
    if not EMULATED.exists():
        print("skipped: no emulated device")
        sys.exit(77)
    sys.exit(run_tests([
        ranks_follow_the_curve_of_one, who_goes_on_otherwise_is_told,
        rank_0_chooses_algorithms_for_all, ranks_plan_what_fits_on_each, ranks_that_see_a_device_each_have_that,
        what_cannot_be_joined_is_said_by_all,
        one_rank_needs_no_nccl, a_kernel_that_faults_ends_all,
        a_killed_rank_ends_the_other,
    ]))
