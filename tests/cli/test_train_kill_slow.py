#!/usr/bin/env python3
"""Runs killed with SIGKILL at random moments end with the same bytes as one that was left alone.
Arguments: the program, the source folder. 20 kills; CSPLADE_SLOW_TESTS=1 in the environment: 200."""
import os
import random
import sys
import time

from workspace import run_tests

KINDS = [
    [],
    ["lora.r=4", "lora.dropout=0.3"],
    ["lora.r=4", "lora.between_phases=merge", "adapt.max_steps=8"],
    ["data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=3", "run.save_total_limit=1"],
]
COMMON = ["adapt.max_steps=6", "contrastive.max_steps=14", "run.save_steps=1"]
LAST = "contrastive-00000014.h5"


def is_writing(w, name):
    """Whether a checkpoint lies half-written there."""
    return any(".h5.tmp." in path.name for path in (w.folder / name / "checkpoints").glob("*"))


def killed_once(w, name, settings, seconds, while_writing):
    """Starts or goes on with a run and kills it after some time, or at the first moment behind it
    when a checkpoint is being written; whether it was killed in time."""
    process = w.start("train", "config.yaml", f"run.output_dir={name}", *COMMON, *settings)
    end = time.monotonic() + seconds
    while process.poll() is None and (time.monotonic() < end or
                                      while_writing and not is_writing(w, name)):
        time.sleep(0.0002 if while_writing else 0.001)
    process.kill()
    out, err = process.communicate()
    w.expect(process.returncode in (0, -9), f"exit {process.returncode}\n{err}")
    return process.returncode != 0


def what_is_there_is_whole(w, name):
    """After a kill: LATEST names a checkpoint that opens; metrics hold no step twice."""
    latest = w.folder / name / "checkpoints/LATEST"
    if latest.exists():
        w.expect_exit(w.run("info", f"{name}/checkpoints/{latest.read_text()}"), 0, "")


def finish(w, name, settings, want, steps):
    w.expect_exit(w.train(name, *COMMON, *settings), 0)
    w.expect(w.checkpoint(name, LAST) == want, f"{name} {settings}: other bytes than without kills")
    w.expect(w.steps(name) == steps, f"{name} {settings}: {w.steps(name)}")
    left = [p.name for p in (w.folder / name).rglob("*") if ".tmp." in p.name]
    w.expect(not left, left)
    w.remove(name)


def killed_runs_end_with_the_same_bytes(w):
    kills = 200 if os.environ.get("CSPLADE_SLOW_TESTS") else 20
    seed = int(time.time())
    chance = random.Random(seed)
    print(f"{kills} kills, seed {seed}", flush=True)
    whole = []
    for i, settings in enumerate(KINDS):
        began = time.monotonic()
        w.expect_exit(w.train(f"whole{i}", *COMMON, *settings), 0)
        whole.append((w.checkpoint(f"whole{i}", LAST), w.steps(f"whole{i}"),
                      time.monotonic() - began))
    done, run, half = 0, 0, 0
    while done < kills:
        kind = run % len(KINDS)
        want, steps, seconds = whole[kind]
        # About five kills a run, at any moment of what is left of it.
        for _ in range(5):
            if done < kills and killed_once(w, f"run{run}", KINDS[kind],
                                            chance.uniform(0.0, 0.6 * seconds), done % 2 == 1):
                done += 1
                half += is_writing(w, f"run{run}")
                what_is_there_is_whole(w, f"run{run}")
        finish(w, f"run{run}", KINDS[kind], want, steps)
        run += 1
    print(f"{done} kills in {run} runs, {half} of them in a checkpoint half-written", flush=True)
    w.expect(half > kills // 10, "too few kills met a checkpoint being written")


if __name__ == "__main__":
    sys.exit(run_tests([killed_runs_end_with_the_same_bytes]))
