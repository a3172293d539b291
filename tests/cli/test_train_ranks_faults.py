#!/usr/bin/env python3
"""What goes wrong on one rank of several ends all of them within run.rank_timeout_s, named: before the
first step what a rank has not or has otherwise, later one that hangs.
Arguments: the program, the source folder, names of tests (all)."""
import json
import os
import signal
import subprocess
import sys
import threading
import time

from ranks_job import Job, MpiJob, mpirun_command
from workspace import run_tests

LONG = ["run.phases=[contrastive]", "contrastive.max_steps=3000", "run.save_steps=0"]
TIMEOUT_S = 5
HANGS = [f"run.rank_timeout_s={TIMEOUT_S}"]
# What a loaded machine needs beside the timeout; and GRACE_S of the program, after which a process
# whose own thread does not come back is ended.
SLACK_S, GRACE_S = 10, 10


def elsewhere(w, name, *left_out):
    """A folder in which a rank finds what the others find, but for some files: a file system that is
    not shared."""
    folder = w.folder / name
    (folder / "beir/qrels").mkdir(parents=True)
    for path in [*w.folder.iterdir(), *(w.folder / "beir").iterdir(), *(w.folder / "beir/qrels").iterdir()]:
        place = folder / path.relative_to(w.folder)
        if not place.exists() and str(path.relative_to(w.folder)) not in (name, "beir", "beir/qrels",
                                                                          *left_out):
            place.symlink_to(path)
    return folder


def expect_failure(w, name, rank, first, *words):
    path = w.folder / name / f"failure.rank{rank}.json"
    w.expect(path.exists(), f"{name}: rank {rank} left no file")
    if path.exists():
        failure = json.loads(path.read_text())
        w.expect(failure["rank"] == rank and failure["first_rank"] == first and
                 all(word in failure["reason"] for word in words), f"{failure}, wanted {first} {words}")


def a_file_that_one_rank_lacks_is_named(w):
    """By the rank that lacks it, before the first step; all end with its exit code."""
    (w.folder / "f").mkdir()
    here = elsewhere(w, "here", "beir/corpus.jsonl")
    results = Job(w, 4, "f", cwd={2: here}).wait()
    w.expect_exit(results[2], 1, "beir/corpus.jsonl: No such file")
    w.expect_exit(results[0], 1, "rank 2 (process ", "beir/corpus.jsonl: No such file")
    w.expect_exit(results[1], 1)
    w.expect_exit(results[3], 1)
    for rank in range(4):
        expect_failure(w, "f", rank, 2, "beir/corpus.jsonl: No such file")
    w.expect(not w.checkpoints("f"), "something is written")
    w.remove("f", "here")


def data_that_one_rank_has_otherwise_is_named(w):
    """As many texts, another byte in one of them. Both ranks find it, rank 0 says it."""
    here = elsewhere(w, "here", "beir/corpus.jsonl")
    text = (w.folder / "beir/corpus.jsonl").read_text()
    (here / "beir/corpus.jsonl").write_text(text.replace("a", "e", 1))
    for rank, result in enumerate(Job(w, 2, "f", cwd={1: here}).wait()):
        w.expect_exit(result, 2, *(["the data", "rank 1"] if rank == 0 else []))
    w.expect(not (w.folder / "f/checkpoints").exists() or not w.checkpoints("f"), "something is written")
    w.remove("f", "here")


def rank_0_says_what_all_find(w):
    """Also where it finds it long after the others: its model's config.json is a pipe."""
    for name, left_out in (("slow", ["model"]), ("quick", ["model", "slow"])):
        (elsewhere(w, name, *left_out) / "model").mkdir()
    (w.folder / "quick/model/config.json").write_text("[]")
    os.mkfifo(w.folder / "slow/model/config.json")
    job = Job(w, 2, "f", cwd={0: w.folder / "slow", 1: w.folder / "quick"})
    pipe, deadline = None, time.monotonic() + 60
    while pipe is None and not job.is_over() and time.monotonic() < deadline:
        try:
            pipe = os.open(w.folder / "slow/model/config.json", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            time.sleep(0.05)
    if pipe is not None:
        time.sleep(1.5)
        os.write(pipe, b"[]")
        os.close(pipe)
    results = job.wait()
    said = [result.stderr.count("model/config.json: ") for result in results]
    w.expect(said == [1, 1] and all(result.returncode == 3 for result in results), f"said {said} times: {results}")
    w.remove("slow", "quick")


def who_cannot_write_checkpoints_says_so_before_the_first_step(w):
    """The folder of checkpoints is a file, where one rank looks: another file system, in which state that
    it has alone would have to go."""
    here = elsewhere(w, "here", "c")
    for folder in (w.folder, here):
        (folder / "c").mkdir()
    (here / "c/checkpoints").write_text("a file")
    results = Job(w, 2, "c", "run.shard_state=on", cwd={1: here}).wait()
    w.expect_exit(results[0], 1, "rank 1", "exists and is not a folder")
    w.expect_exit(results[1], 1, "exists and is not a folder")
    w.expect(not w.steps("c") if (w.folder / "c/metrics.jsonl").exists() else True, "steps were made")
    w.expect(not list((w.folder / "c/checkpoints").iterdir()), "something is left")
    w.remove("c", "here")


def another_version_on_one_rank_is_named(w):
    """A copy of the program whose version has another last digit."""
    said = w.must("--version").stdout.split(None, 1)[1].strip()
    version = said.split(",")[0].strip()
    other = version[:-1] + ("1" if version[-1] != "1" else "2") if not version.endswith(")") else \
        version[:-2] + ("1" if version[-2] != "1" else "2") + ")"
    data = open(w.program, "rb").read()
    w.expect(data.count(version.encode()) > 0, f"the program does not hold {version}")
    program = w.folder / "other-csplade"
    program.write_bytes(data.replace(version.encode(), other.encode()))
    program.chmod(0o755)
    for result in Job(w, 2, "v", program={1: program}).wait():
        w.expect_exit(result, 2, "ranks run different versions of csplade", version, other, "rank 1")
    w.expect(not (w.folder / "v").exists(), "something is written")
    program.unlink()


def a_signal_ends_a_rank_that_waits_for_one_that_never_comes(w):
    """There is nothing to save yet, and the timeout may be far away."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        job = Job(w, 2, "n", "run.rank_timeout_s=1800", program={1: "/bin/true"})
        first = job.ranks[0].stderr.readline()
        w.expect("rank 0 waits at port" in first and "for 1 more, 1800 s at most" in first, first)
        job.ranks[0].send_signal(number)
        w.expect_exit(job.wait(20)[0], 75, "stopped before the ranks met")
    w.expect(not (w.folder / "n").exists(), "something is written")


def begun(w, job, name):
    """Until the run has done some steps."""
    metrics, deadline = w.folder / name / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        if job.is_over() or time.monotonic() > deadline:
            w.expect(False, f"{name} did not begin: {[r.stderr for r in job.wait()]}")
            return
        time.sleep(0.01)


def a_stopped_rank_ends_the_others(w):
    """As a process on a machine that hangs; when it goes on it learns what has become of it."""
    for victim in (1, 0):
        job = Job(w, 2, "h", *LONG, *HANGS)
        begun(w, job, "h")
        job.ranks[victim].send_signal(signal.SIGSTOP)
        start = time.monotonic()
        out, err = job.ranks[1 - victim].communicate(timeout=60)
        took = time.monotonic() - start
        w.expect(took < TIMEOUT_S + SLACK_S, f"it took {took:.1f} s")
        result = subprocess.CompletedProcess("the other", job.ranks[1 - victim].returncode, out, err)
        # Rank 0 has the reason on stderr whoever it was, the others in their files.
        w.expect_exit(result, 1, *(["rank 1 (process ", f" {TIMEOUT_S} s"] if victim == 1 else []))
        expect_failure(w, "h", 1 - victim, victim, f"rank {victim} (process ", f" {TIMEOUT_S} s")
        w.expect(job.pid(victim) is not None, "it has ended although it is stopped")
        job.ranks[victim].send_signal(signal.SIGCONT)
        out, err = job.ranks[victim].communicate(timeout=60)
        w.expect(job.ranks[victim].returncode == 1, f"exit {job.ranks[victim].returncode}\n{err}")
        w.remove("h")


def a_suspended_job_goes_on(w):
    """All ranks are stopped, by a scheduler that gives their machines to another job, and go on later."""
    job = Job(w, 3, "s", *LONG, *HANGS, "contrastive.batch.queries=12", "contrastive.max_steps=60")
    begun(w, job, "s")
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in job.ranks:
            process.send_signal(number)
        time.sleep(TIMEOUT_S + 1 if number == signal.SIGSTOP else 0)
    for result in job.wait():
        w.expect_exit(result, 0)
    w.remove("s")


def a_rank_that_waits_for_its_disk_is_ended_too(w):
    """Its thread does not come back from open(): the others go after the timeout, it after a grace."""
    (w.folder / "f").mkdir()
    here = elsewhere(w, "here", "model")
    (here / "model").mkdir()
    for path in (w.folder / "model").iterdir():
        if path.name != "tokenizer.json":
            (here / "model" / path.name).symlink_to(path)
    os.mkfifo(here / "model/tokenizer.json")
    start = time.monotonic()
    job = Job(w, 2, "f", *HANGS, cwd={1: here})
    out, err = job.ranks[0].communicate(timeout=60)
    w.expect(time.monotonic() - start < TIMEOUT_S + SLACK_S, "rank 0 took too long")
    w.expect_exit(subprocess.CompletedProcess("rank 0", job.ranks[0].returncode, out, err), 1,
                  "rank 1 (process ", f"within {TIMEOUT_S} s")
    expect_failure(w, "f", 0, 1, f"within {TIMEOUT_S} s")
    result = job.wait()[1]
    w.expect(time.monotonic() - start < TIMEOUT_S + GRACE_S + SLACK_S, "rank 1 took too long")
    w.expect_exit(result, 1, f"it did not stop by itself within {GRACE_S} s")
    w.remove("f", "here")


def long_files_of_evaluations_are_no_hang(w):
    """Judgements and queries, from pipes that each take longer than ranks wait for one another."""
    lines = {"long.tsv": ("beir/qrels/dev.tsv", lambda n: f"none\t{n}\t1\n"),
             "long.jsonl": ("beir/queries.jsonl", lambda n: f'{{"_id": "n{n}", "text": "none"}}\n')}

    def write(name, source, line):
        with open(w.folder / name, "w", encoding="utf-8") as pipe:
            pipe.write((w.folder / source).read_text())
            end, n = time.monotonic() + TIMEOUT_S + 2, 0
            while time.monotonic() < end:
                pipe.write("".join(line(n + i) for i in range(8000)))  # more than is read at once
                pipe.flush()
                n += 8000
                time.sleep(0.1)

    for name, of in lines.items():
        os.mkfifo(w.folder / name)
        threading.Thread(target=write, args=(name, *of), daemon=True).start()
    for result in Job(w, 2, "l", *HANGS, "data.dev_qrels=long.tsv", "data.corpus=beir/corpus.jsonl",
                      "data.queries=long.jsonl", "run.phases=[adapt]", "run.eval_steps=2",
                      "adapt.max_steps=2").wait():
        w.expect_exit(result, 0, *(["nDCG@10"] if result.args == "rank 0" else []))
    for name in lines:
        (w.folder / name).unlink()
    w.remove("l")


def mpirun_ends_with_the_code_of_what_ended_a_rank(w):
    """137 for one that was killed (docs/slurm.md), or 1 if mpirun notices the end of another first; and
    the csplade exit code of one that failed."""
    if mpirun_command(2) is None:
        print("skipped: no mpirun")
        return
    job = MpiJob(w, 2, "m", *LONG)
    begun(w, job, "m")
    os.kill(job.pid(1), signal.SIGKILL)
    start = time.monotonic()
    result = job.wait()[0]
    w.expect(time.monotonic() - start < SLACK_S, "mpirun took too long")
    if result.returncode != 1:
        w.expect_exit(result, 137, "signal 9 (Killed)")
    (w.folder / "broken.tsv").write_text("query-id\tcorpus-id\tscore\nq1 d1\n")
    w.expect_exit(MpiJob(w, 2, "m2", "data.qrels=broken.tsv").wait()[0], 3, "broken.tsv")
    w.remove("m", "m2")


if __name__ == "__main__":
    sys.exit(run_tests([
        a_file_that_one_rank_lacks_is_named,
        data_that_one_rank_has_otherwise_is_named,
        rank_0_says_what_all_find,
        who_cannot_write_checkpoints_says_so_before_the_first_step,
        another_version_on_one_rank_is_named,
        a_signal_ends_a_rank_that_waits_for_one_that_never_comes,
        a_stopped_rank_ends_the_others,
        a_suspended_job_goes_on,
        a_rank_that_waits_for_its_disk_is_ended_too,
        long_files_of_evaluations_are_no_hang,
        mpirun_ends_with_the_code_of_what_ended_a_rank,
    ]))
