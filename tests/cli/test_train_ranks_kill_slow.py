#!/usr/bin/env python3
"""A rank that is killed with SIGKILL at any moment ends all ranks within seconds, loses no checkpoint,
and the same command goes on to the bytes of a run that was left alone.
Arguments: the program, the source folder. 20 kills; CSPLADE_SLOW_TESTS=1 in the environment: 200.
CSPLADE_KILL_SEED=N repeats the choices of an earlier run."""
import collections
import json
import os
import random
import shutil
import signal
import struct
import sys
import time

from ranks_job import Job, MpiJob
from workspace import run_tests

ADAPT, CONTRASTIVE = 4, 9
COMMON = [f"adapt.max_steps={ADAPT}", f"contrastive.max_steps={CONTRASTIVE}", "run.save_steps=1",
          "run.rank_timeout_s=10", "data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=3"]
LAST = f"contrastive-{CONTRASTIVE:08d}.h5"
LORA = ["lora.r=4", "lora.dropout=0.3", "lora.between_phases=merge"]
SHARED = ["run.shard_state=on", "run.bucket_mb=0.001", "run.save_total_limit=2"]
# Launcher, ranks, settings; five kills each in turn, so that 20 meet the first four.
KINDS = [("tcp", 2, ["run.save_total_limit=1"]), ("mpi", 2, LORA), ("tcp", 4, SHARED),
         ("tcp", 4, LORA), ("tcp", 2, LORA), ("mpi", 2, SHARED), ("mpi", 4, ["lora.r=4"])]
# After the kill: what the system and a loaded machine need; and, where ranks have not met yet,
# run.rank_timeout_s in which they wait for one another; and GRACE_S of the program, after which one whose
# own thread computes on and on, on a machine with too much to do, is ended without a file.
END_S, MEET_S, GRACE_S = 8.0, 10.0, 10.0
GRACE = "it did not stop by itself within"


class Moments:
    """When to kill: at a time since the start, or some milliseconds after what the run leaves."""

    def __init__(self, w, name, chance, seconds):
        self.folder, self.chance, self.seconds = w.folder / name, chance, seconds
        self.latest = latest_of(w, name)
        self.before = self.stamp()

    def draw(self, where):
        """A function that says when, of the seconds since the start."""
        soon = self.chance.uniform(0.0, 0.02)
        at = self.chance.uniform(0.0, self.seconds)
        early = self.chance.uniform(0.0, 0.3)
        first = self.latest[1] if self.latest and self.latest[0] == "contrastive" else 0
        next_eval = min(3 * (first // 3 + self.chance.randint(1, 3)), CONTRASTIVE)
        return {"start": lambda now: now >= early,
                "any": lambda now: now >= at,
                "saving": self.after(lambda now: now >= 0.5 * at and self.is_saving(), 0.1 * soon),
                "merging": self.after(self.has_merged, 0.3 * soon),
                "evaluating": self.after(lambda now: self.is_at(next_eval), soon),
                "end": self.after(lambda now: self.is_at(CONTRASTIVE), 3.0 * soon)}[where]

    @staticmethod
    def after(condition, delay):
        since = []

        def is_due(now):
            if not since and condition(now):
                since.append(now)
            return bool(since) and now >= since[0] + delay

        return is_due

    def is_saving(self):
        try:
            return any(".tmp." in entry.name for entry in os.scandir(self.folder / "checkpoints"))
        except OSError:
            return False

    def has_merged(self, now):
        """Begun to, or, without adapters, come to the second phase."""
        return (self.folder / "merged-adapt").exists() or self.is_at(1)

    def stamp(self):
        try:
            return (self.folder / "metrics.jsonl").stat().st_mtime_ns
        except OSError:
            return None

    def is_at(self, step):
        """Whether this start has done a step of the second phase that is no earlier."""
        if self.stamp() == self.before:
            return False
        try:
            rows = (self.folder / "metrics.jsonl").read_text().split("\n")
        except OSError:
            return False
        steps = [json.loads(row) for row in rows if row.endswith("}")]
        return bool(steps) and steps[-1]["phase"] == "contrastive" and steps[-1]["step"] >= step


# Along a run, so that a later moment is still to come after an earlier kill.
ALONG = [["any", "saving", "merging", "evaluating", "end"],
         ["start", "any", "merging", "saving", "end"],
         ["saving", "any", "saving", "evaluating", "any"]]


def latest_of(w, name):
    """(phase, step) of the checkpoint that LATEST names; None where there is none."""
    try:
        text = (w.folder / name / "checkpoints/LATEST").read_text()
    except OSError:
        return None
    phase, step = text.strip().removesuffix(".h5").split("-")
    return phase, int(step)


def start(w, kind, name):
    launcher, size, settings = kind
    return (Job if launcher == "tcp" else MpiJob)(w, size, name, *COMMON, *settings)


def states(w, name, stem="*"):
    """Files of state that ranks share out."""
    return sorted(p.name for p in (w.folder / name / "checkpoints").glob(f"{stem}.rank*.state"))


def what_is_there_is_whole(w, kind, name, before, where):
    """Every file under a final name opens; LATEST names a checkpoint that is no older than before."""
    _, size, settings = kind
    for path in (w.folder / name / "checkpoints").glob("*.h5"):
        w.expect_exit(w.run("info", path), 0, "")
    merged = w.folder / name / "merged-adapt/model.safetensors"
    if merged.exists():
        data = merged.read_bytes()
        length, = struct.unpack_from("<Q", data)
        ends = [row["data_offsets"][1] for row in json.loads(data[8:8 + length]).values()
                if "data_offsets" in row]
        w.expect(len(data) == 8 + length + max(ends), f"{where}: {merged.name} is not whole")
    latest = latest_of(w, name)
    w.expect(before is None or latest is not None and latest >= before,
             f"{where}: LATEST was {before} and is {latest}")
    if latest is not None:
        file = f"{latest[0]}-{latest[1]:08d}.h5"
        w.expect(file in w.checkpoints(name), f"{where}: LATEST names {file}, which is not there")
        parts = states(w, name, file.removesuffix(".h5"))
        w.expect(SHARED != settings or len(parts) >= size, f"{where}: of {file} there is {parts}")
    return latest


def expect_end(w, kind, name, victim, had_folder, results, stuck, where):
    """Exit codes, and the files of the ranks that are left."""
    launcher, size, _ = kind
    said = "".join(result.stderr for result in results)
    met = f"{size} ranks started by" in said
    done = LAST in w.checkpoints(name)
    if stuck:
        pass  # the ranks have ended, mpirun has not: MpiJob.wait
    elif launcher == "mpi":
        # As mpirun documents: 128 + 9 of the killed process. One that has seen the failure may end
        # before mpirun sees it.
        w.expect(results[0].returncode in (137, 1) or done and results[0].returncode == 0,
                 f"{where}: mpirun exits with {results[0].returncode}\n{said}")
    else:
        for rank, result in enumerate(results):
            code = result.returncode
            w.expect(code == (-signal.SIGKILL if rank == victim else 1) or done and code == 0,
                     f"{where}: rank {rank} exits with {code}\n{said}")
    for rank in range(size):
        path = w.folder / name / f"failure.rank{rank}.json"
        # mpirun ends the others too, so they may not come to write; a rank that came too late to
        # learn who has failed did all its work.
        if rank == victim or not path.exists():
            w.expect(launcher == "mpi" or rank == victim or not met or not had_folder or
                     results[rank].returncode == 0 or GRACE in results[rank].stderr, f"{where}: rank {rank} left no file\n{said}")
            w.expect(rank != victim or not path.exists(), f"{where}: {path.name} of the killed rank")
            continue
        failure = json.loads(path.read_text())
        w.expect(failure["rank"] == rank and failure["ranks"] == size and failure["exit_code"] == 1
                 and failure["first_rank"] == victim and f"rank {victim} (process " in
                 failure["reason"] and "has gone without a word" in failure["reason"],
                 f"{where}: {failure}")


def killed_once(w, kind, name, when, chance, seconds):
    """Starts or goes on with a run and kills one rank; the name of where that met it, None where the
    run was over before, and whether mpirun did not end although all ranks had."""
    victim, before = chance.randrange(kind[1]), latest_of(w, name)
    moments = Moments(w, name, chance, seconds)
    is_due = moments.draw(when)
    for path in (w.folder / name).glob("failure.*"):
        path.unlink()
    job, began = start(w, kind, name), time.monotonic()
    where = f"{name} {kind[0]} {kind[1]} ranks, rank {victim} at {when}"
    try:
        while not job.is_over() and not (is_due(time.monotonic() - began) and job.pid(victim)):
            time.sleep(0.0005)
        pid, at = job.pid(victim), time.monotonic()
        had_folder = (w.folder / name / "checkpoints").is_dir()
        known, saving = latest_of(w, name), moments.is_saving()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        results = job.wait(60)
        stuck = kind[0] == "mpi" and job.is_stuck
        took = (job.gone_at if stuck else time.monotonic()) - at
    finally:
        job.kill()
    said = "".join(result.stderr for result in results)
    codes = [result.returncode for result in results]
    if pid is None or all(code == 0 for code in codes):
        w.expect(all(code == 0 for code in codes), f"{where}: {codes} unkilled\n{said}")
        return None, False
    where += f" {at - began:.3f} s after the start"
    met = f"{kind[1]} ranks started by" in said
    w.expect(took < END_S + (MEET_S if not met else GRACE_S if GRACE in said else 0.0), f"{where}: the end took {took:.1f} s\n{said}")
    expect_end(w, kind, name, victim, had_folder, results, stuck, where)
    what_is_there_is_whole(w, kind, name, known if known is not None else before, where)
    print(f"{where}: {took:.2f} s, exit {codes}{', mpirun stuck' if stuck else ''}", flush=True)
    place = ("start-up" if not met or "phase " not in said else "saving" if saving else
            "evaluation" if when == "evaluating" else
            "end" if when == "end" else "contrastive" if "phase contrastive" in said else "adapt")
    return place, stuck


def finish(w, kind, name, want, steps):
    """To the end, from the newest checkpoint; the same bytes."""
    latest = latest_of(w, name)
    results = start(w, kind, name).wait()
    for result in results:
        w.expect_exit(result, 0)
    said = results[0].stderr
    if latest is not None:
        w.expect(f"going on from {name}/checkpoints/{latest[0]}-{latest[1]:08d}.h5" in said, said)
    w.expect(w.checkpoint(name, LAST) == want, f"{name} {kind}: other bytes than without kills")
    w.expect(w.steps(name) == steps, f"{name} {kind}: {w.steps(name)}")
    left = [p.name for p in (w.folder / name).rglob("*")
            if ".tmp." in p.name or p.name.startswith("failure.")]
    left += [p for p in states(w, name) if p.split(".")[0] + ".h5" not in w.checkpoints(name)]
    w.expect(not left, f"{name} {kind}: left behind {left}")
    w.remove(name)


def killed_ranks_cost_no_checkpoint(w):
    kills = 200 if os.environ.get("CSPLADE_SLOW_TESTS") else 20
    seed = int(os.environ.get("CSPLADE_KILL_SEED") or time.time())
    chance = random.Random(seed)
    print(f"{kills} kills, seed {seed}", flush=True)
    kinds = [kind for kind in KINDS if kind[0] == "tcp" or shutil.which("mpirun")]
    steps = [("adapt", k + 1) for k in range(ADAPT)] + [("contrastive", k + 1)
                                                       for k in range(CONTRASTIVE)]
    whole, met = {}, collections.Counter()
    done = run = stuck = 0
    while done < kills:
        kind = kinds[run % len(kinds)]
        key, name = repr(kind), f"run{run}"
        if key not in whole:
            began = time.monotonic()
            for result in start(w, kind, "whole").wait():
                w.expect_exit(result, 0)
            whole[key] = w.checkpoint("whole", LAST), time.monotonic() - began
            w.expect(w.steps("whole") == steps, w.steps("whole"))
            w.remove("whole")
        want, seconds = whole[key]
        for when in ALONG[run % len(ALONG)]:
            if done < kills:
                place, is_stuck = killed_once(w, kind, name, when, chance, seconds)
                stuck += is_stuck
                if place is not None:
                    done, met[place] = done + 1, met[place] + 1
        finish(w, kind, name, want, steps)
        run += 1
    print(f"{done} kills in {run} runs: " + ", ".join(f"{n} {k}" for k, n in sorted(met.items())) +
          (f"; mpirun did not end by itself {stuck} times" if stuck else ""), flush=True)
    w.expect(kills < 200 or len(met) == 6, f"not every part of a run was met: {met}")


if __name__ == "__main__":
    sys.exit(run_tests([killed_ranks_cost_no_checkpoint]))
