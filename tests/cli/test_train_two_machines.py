#!/usr/bin/env python3
"""csplade train on two machines: network namespaces of this one, with a name and an address each and a
link between them, two ranks on either. Skipped where namespaces are not allowed.
Arguments: the program, the source folder, names of tests (all)."""
import json
import os
import shutil
import subprocess
import sys
import time

from ranks_job import Job
from workspace import run_tests

NAMES = [f"csplade-{os.getpid()}-{letter}" for letter in "ab"]
LINKS = [f"cs{os.getpid() % 100000}{letter}" for letter in "ab"]
ADDRESSES = ["10.213.77.1", "10.213.77.2"]
LAST = "contrastive-00000006.h5"
TIMEOUT_S, SLACK_S = 5, 10


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def make_machines():
    """Why it cannot be done; None where it has been."""
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2, util-linux)"
    steps = [("netns", "add", name) for name in NAMES]
    steps.append(("link", "add", LINKS[0], "netns", NAMES[0], "type", "veth",
                  "peer", "name", LINKS[1], "netns", NAMES[1]))
    for name, link, address in zip(NAMES, LINKS, ADDRESSES):
        steps += [("-n", name, "addr", "add", f"{address}/24", "dev", link),
                  ("-n", name, "link", "set", link, "up"), ("-n", name, "link", "set", "lo", "up")]
    for step in steps:
        result = ip(*step)
        if result.returncode != 0:
            return f"ip {' '.join(step)}: {result.stderr.strip()}"
    probe = subprocess.run([*on_machine(0), "true"], capture_output=True, text=True)
    return None if probe.returncode == 0 else f"unshare --uts: {probe.stderr.strip()}"


def remove_machines():
    for name in NAMES:
        ip("netns", "delete", name)  # and the link with the first


def on_machine(number):
    """Words before a command that run it there."""
    return ["ip", "netns", "exec", NAMES[number], "unshare", "--uts", "sh", "-c",
            f'hostname machine{number} && exec "$@"', "sh"]


def start(w, name, *settings, cwd=None):
    """Ranks 0 and 1 on the first machine, 2 and 3 on the second. LOCAL_RANK is wrong on purpose."""
    return Job(w, 4, name, *settings, cwd=cwd, env={"MASTER_ADDR": ADDRESSES[0]},
               before={rank: on_machine(rank // 2) for rank in range(4)})


def two_machines_give_what_one_does(w):
    """To the byte; and each knows which of the ranks are its own, by its name."""
    for result in Job(w, 4, "one").wait():
        w.expect_exit(result, 0)
    results = start(w, "two").wait()
    for result in results:
        w.expect_exit(result, 0)
    said = results[0].stderr
    w.expect("4 ranks started by torchrun variables, 2 of them on this machine" in said, said)
    for rank in range(4):
        w.expect(f"  rank {rank} on machine{rank // 2}  median" in said, said)
    w.expect(w.checkpoint("two", LAST) == w.checkpoint("one", LAST), "other bytes")
    w.remove("one", "two")


def each_machine_reads_the_data_once_and_all_have_the_same(w):
    """Ranks 1 and 3 have no judgements, and need none. A machine with another text is named."""
    folders = {}
    for rank in (1, 2, 3):
        folders[rank] = w.folder / f"at{rank}"
        (folders[rank] / "beir").mkdir(parents=True)
        names = ["model", "config.yaml", "two", "beir/corpus.jsonl", "beir/queries.jsonl"]
        for name in names + ([] if rank != 2 else ["beir/qrels", "text.txt"]):
            (folders[rank] / name).symlink_to(w.folder / name)
    settings = ["run.phases=[contrastive]", "data.text=[]"]
    for result in start(w, "two", *settings, cwd=folders).wait():
        w.expect_exit(result, 0)
    whole = (w.folder / "beir/corpus.jsonl").read_text()
    for rank in (2, 3):
        path = folders[rank] / "beir/corpus.jsonl"
        path.unlink()
        path.write_text(whole.replace("a", "b", 1))
    for result in start(w, "two", *settings, "run.resume=none", "run.output_dir=x", cwd=folders).wait():
        w.expect_exit(result, 2, *(["the data", "rank 2", "document digest"]
                                   if result.args == "rank 0" else []))
    w.remove("two", "x", "at1", "at2", "at3")


def a_link_that_goes_down_ends_all(w):
    """On both machines, within the timeout, each naming a rank that it cannot reach."""
    job = start(w, "cut", "run.phases=[contrastive]", "contrastive.max_steps=3000", "run.save_steps=0",
                f"run.rank_timeout_s={TIMEOUT_S}")
    metrics, deadline = w.folder / "cut/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        if job.is_over() or time.monotonic() > deadline:
            w.expect(False, f"it did not begin: {[r.stderr for r in job.wait()]}")
            return
        time.sleep(0.01)
    w.expect(ip("-n", NAMES[0], "link", "set", LINKS[0], "down").returncode == 0, "the link stays up")
    start_s = time.monotonic()
    results = job.wait(60)
    took = time.monotonic() - start_s
    ip("-n", NAMES[0], "link", "set", LINKS[0], "up")
    w.expect(took < TIMEOUT_S + SLACK_S, f"the end took {took:.1f} s")
    w.expect_exit(results[0], 1, "on machine1)", f" {TIMEOUT_S} s")
    for rank in range(4):
        w.expect_exit(results[rank], 1)
        path = w.folder / f"cut/failure.rank{rank}.json"
        w.expect(path.exists(), f"rank {rank} left no file")
        if path.exists():
            failure = json.loads(path.read_text())
            w.expect(failure["host"] == f"machine{rank // 2}" and failure["first_rank"] // 2 != rank // 2
                     and f" {TIMEOUT_S} s" in failure["reason"], failure)
    w.remove("cut")


if __name__ == "__main__":
    try:
        problem = make_machines()
        if problem is not None:
            print(f"skipped: {problem}")
            sys.exit(77)
        sys.exit(run_tests([two_machines_give_what_one_does,
                            each_machine_reads_the_data_once_and_all_have_the_same,
                            a_link_that_goes_down_ends_all]))
    finally:
        remove_machines()
