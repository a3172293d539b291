#!/usr/bin/env python3
"""The batch files of scripts/slurm on a real SLURM, of one and of two virtual nodes on the loopback.
Arguments: the program, the source folder, names of tests (all)."""
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from slurm_cluster import Cluster, missing_program, run_watched
from workspace import Workspace

LONG = ["run.phases=[contrastive]", "contrastive.max_steps=400", "run.save_steps=0",
        "run.logging_steps=100", "run.save_total_limit=9"]
LAST = "contrastive-00000400.h5"
SHORT = ["run.phases=[contrastive]", "contrastive.max_steps=4"]
# Of the header lines of the batch files, what this machine cannot give.
SMALL = ["--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1"]
ONE = ["--gpus-per-node=1", "--cpus-per-task=1"]


class Jobs:
    """Submits the shipped batch files as they are, from the folder of a workspace."""

    def __init__(self, w, cluster, source):
        self.w, self.cluster, self.scripts = w, cluster, Path(source).resolve() / "scripts/slurm"
        # The emulated device, where it is beside the program: as many as SLURM believes there are.
        cluster.env.update(CSPLADE=str(w.program), CSPLADE_SCRIPTS=str(self.scripts), CSP_EMU_DEVICES="2")
        (w.folder / "logs").mkdir(exist_ok=True)

    def submit(self, script, *words, options=()):
        return self.cluster.submit(self.scripts / script, *words, options=options, cwd=self.w.folder)

    def train(self, name, *settings, script="train.sbatch", options=SMALL):
        return self.submit(script, "config.yaml", f"run.output_dir={name}", "device.threads=1",
                           "run.rank_timeout_s=60", *settings, options=options)

    def log(self, job, script="csplade-train"):
        path = self.w.folder / f"logs/{script}-{job}.out"
        return path.read_text() if path.exists() else ""

    def numbers(self):
        """Of all jobs that SLURM remembers."""
        return set(self.cluster.call("squeue", "-h", "-t", "all", "-o", "%F").split())

    def run_page(self, mark):
        """Runs the blocks of docs/slurm.md that are marked so, as a user whose numbers are smaller; the
        jobs of each must end well before the next is run. The numbers of all jobs."""
        (self.w.folder / "my.yaml").write_text(
            (self.w.folder / "config.yaml").read_text().replace("threads: 2", "threads: 1")
            .replace("max_steps: 6", "max_steps: 4")
            .replace("run: {", "run: {phases: [contrastive], "))
        scripts, my = self.w.folder / "scripts/slurm", self.w.folder / "my"
        if not my.exists():
            my.symlink_to("beir")
            shutil.copytree(self.scripts, scripts)
            for path in scripts.glob("*.sbatch"):
                text = re.sub(r"(--(?:ntasks|gpus)-per-node)=8", r"\1=2", path.read_text())
                path.write_text(re.sub(r"--cpus-per-task=\d+", "--cpus-per-task=1", text))
        env = {"PATH": f"{self.w.program.parent}:{self.cluster.env['PATH']}", "CSPLADE_SCRIPTS": "",
               "CSPLADE": ""}
        page, jobs = (self.scripts.parents[1] / "docs/slurm.md").read_text(), []
        for info, text in re.findall(r"^```([^\n]*)\n(.*?)^```", page, re.M | re.S):
            if info.startswith("text "):
                (self.w.folder / info.split()[1]).write_text(text)
            if info != mark:
                continue
            before = self.numbers()
            result = self.cluster.run("bash", "-euc", text, env=env, cwd=self.w.folder)
            self.w.expect(result.returncode == 0, f"{text}\n{result.stderr}")
            jobs += sorted(self.numbers() - before)
            self.cluster.wait(*jobs)
            for job in jobs:
                for line in self.cluster.call("scontrol", "show", "job", "-o", job).splitlines():
                    log = Path(re.search(r"StdOut=(\S+)", line).group(1))
                    self.w.expect("JobState=COMPLETED" in line,
                                  f"{text}\n{line}\n{log.read_text() if log.exists() else ''}")
        self.w.expect(jobs, f"no block is marked {mark}")
        return jobs

    def expect_end(self, job, state, code=0):
        """How a job ended."""
        end = self.cluster.wait(job)
        self.w.expect(end.get("JobState") == state and end.get("ExitCode") == f"{code}:0",
                      f"job {job}: {end.get('JobState')} {end.get('ExitCode')}, wanted {state} "
                      f"{code}\n{self.log(job)}\n{self.cluster.logs()}")
        return end

    def steps_done(self, name, count=20):
        path = self.w.folder / name / "metrics.jsonl"
        self.cluster.until(lambda: path.exists() and path.read_text().count("\n") > count,
                           f"{name} does not come to step {count}")


def a_job_trains_on_all_its_tasks(j):
    """By srun and PMIx, over shared memory; the log says in which job."""
    job = j.train("whole", *LONG)
    j.steps_done("whole")
    asked = j.cluster.call("scancel", "--signal=USR1", job)
    j.cluster.until(lambda: j.w.checkpoints("whole"), f"SIGUSR1 brings no checkpoint {asked}")
    j.w.expect(j.w.checkpoints("whole") != [LAST], "that is the last one, not that of the signal")
    end = j.expect_end(job, "COMPLETED")
    log = j.log(job)
    j.w.expect(end.get("Restarts") == "0" and "2 ranks started by srun" in log, log)
    j.w.expect(re.search(rf"csplade [0-9.]+ .*, SLURM job {job} on n1, CUDA_VISIBLE_DEVICES 0,1", log), log)
    j.w.expect("OMPI_MCA" not in log, log)
    j.w.expect(f"model whole/checkpoints/{LAST}" in log, log)


def preemption_costs_no_step(j):
    """An urgent job takes the machine; the run gives way, comes back and ends in the same bytes."""
    job = j.train("preempted", *LONG)
    j.steps_done("preempted")
    urgent = j.submit("merge.sbatch", options=["--partition=urgent", "--ntasks=4"])
    j.cluster.wait(urgent)
    saved = j.w.checkpoints("preempted")
    j.w.expect(len(saved) == 1 and saved != [LAST], saved)
    j.w.expect(j.cluster.show(job).get("JobState") != "COMPLETED", "it was not preempted")
    end = j.expect_end(job, "COMPLETED")
    log = j.log(job)
    j.w.expect(end.get("Restarts") == "1" and "restart 1" in log, f"{end}\n{log}")
    j.w.expect(f"going on from preempted/checkpoints/{saved[0]}" in log, log)
    j.w.expect(j.w.checkpoint("preempted", LAST) == j.w.checkpoint("whole", LAST), "other bytes")


def commands_stop_a_job_with_a_checkpoint(j):
    """scancel for good, the others until it is its turn again."""
    for name, words in (("cancelled", ["scancel"]), ("requeued", ["scontrol", "requeue"]),
                        ("warned", ["scancel", "--batch", "--signal=USR1"])):
        job = j.train(name, *LONG)
        j.steps_done(name)
        j.cluster.call(*words, job)
        if name == "cancelled":
            end = j.cluster.wait(job)
            j.w.expect(end.get("JobState") == "CANCELLED" and end.get("Restarts") == "0", end)
        else:
            j.cluster.until(lambda: j.cluster.show(job).get("JobState") == "PENDING", "not queued")
            j.w.expect(j.cluster.show(job).get("Restarts") == "1", j.cluster.show(job))
            j.cluster.call("scancel", job)
        j.w.expect(len(j.w.checkpoints(name)) == 1, j.log(job))


def a_failing_rank_fails_the_job(j):
    """With the exit code of the program, not of a signal, and a file of each rank."""
    (j.w.folder / "broken.tsv").write_text("query-id\tcorpus-id\tscore\nq1 d1\n")
    job = j.train("failed", "data.qrels=broken.tsv")
    j.expect_end(job, "FAILED", 3)
    for rank in range(2):
        failure = json.loads((j.w.folder / f"failed/failure.rank{rank}.json").read_text())
        j.w.expect(failure["exit_code"] == 3 and "broken.tsv" in failure["reason"], failure)


def a_killed_rank_fails_the_job(j):
    """As the kernel kills one that takes too much memory. srun has the code of the killed one, the file
    of the other says who it was, and the job that is submitted again goes on."""
    settings = [word.replace("run.save_steps=0", "run.save_steps=10") for word in LONG]
    job = j.train("killed", *settings)
    j.steps_done("killed")
    os.kill(j.cluster.task(job, 1), signal.SIGKILL)
    end = j.cluster.wait(job)
    j.w.expect(end.get("JobState") == "FAILED" and end.get("ExitCode") == "137:0" and
               end.get("Restarts") == "0", f"{end}\n{j.log(job)}")
    failure = json.loads((j.w.folder / "killed/failure.rank0.json").read_text())
    j.w.expect(failure["exit_code"] == 1 and failure["first_rank"] == 1 and
               "has gone without a word" in failure["reason"], failure)
    j.w.expect(not (j.w.folder / "killed/failure.rank1.json").exists(), "a file of the killed rank")
    saved = j.w.checkpoints("killed")[-1]
    j.expect_end(j.train("killed", *settings), "COMPLETED")
    j.w.expect(j.w.checkpoint("killed", LAST) == j.w.checkpoint("whole", LAST),
               f"other bytes after {saved}")


def what_the_page_shows_runs(j):
    """Training, an array of ablations, and an encoding in parts, as docs/slurm.md has them."""
    j.run_page("sh slurm")
    j.w.expect(j.w.checkpoints("runs/a"), "no checkpoint of runs/a")
    names = sorted(p.name for p in (j.w.folder / "runs/ablations").iterdir())
    j.w.expect(names == ["cooler", "no-flops", "standard"], names)
    lambdas = {name: j.w.metrics(f"runs/ablations/{name}")[-1]["lambda_d"] for name in names}
    j.w.expect(lambdas["standard"] > 0 and lambdas["no-flops"] == 0, lambdas)
    out = j.w.must("info", "docs.h5").stdout
    j.w.expect("rows                  100" in out and "part" not in out, out)


def a_task_without_a_line_is_refused(j):
    (j.w.folder / "lines.txt").write_text("# name, settings\nstandard\nlambda_d=1\n")
    job = j.submit("ablate.sbatch", "lines.txt", "config.yaml", "no", options=["--array=2-3", *ONE])
    j.cluster.wait(job)
    for task, line in ((2, "lambda_d=1"), (3, "")):
        log = j.log(f"{job}-{task}", "csplade-ablate")
        j.w.expect(f'must begin with a name, of letters, digits, . _ and -; it is "{line}"' in log, log)
    j.w.expect(not (j.w.folder / "no").exists(), "something ran")


def ranks_meet_over_tcp_where_there_is_no_pmix(j):
    j.cluster.env.update(CSPLADE_RANKS="tcp", MASTER_ADDR="127.0.0.1")
    job = j.train("tcp", *SHORT)
    del j.cluster.env["CSPLADE_RANKS"], j.cluster.env["MASTER_ADDR"]
    j.expect_end(job, "COMPLETED")
    j.w.expect("2 ranks started by torchrun variables" in j.log(job), j.log(job))


def what_no_task_has_encoded_is_named(j):
    """And made up for by the task itself; then it is what one process encodes."""
    words = ["--model", "model", "--input", "beir", "--device", "cpu", "--threads", 1]

    def encode(tasks):
        job = j.submit("encode.sbatch", 3, "d.jsonl", *words, options=[f"--array={tasks}", *ONE])
        job = j.submit("merge.sbatch", "d.jsonl", options=[f"--dependency=afterany:{job}"])
        return job, j.cluster.wait(job)

    job, end = encode("0,2")
    log = j.log(job, "csplade-merge")
    j.w.expect(end.get("ExitCode") == "3:0" and "rows 33 to 65 of 100 are missing" in log, log)
    j.w.expect(not (j.w.folder / "d.jsonl").exists(), "a file that is not whole")
    job, end = encode("1")
    j.w.expect(end.get("JobState") == "COMPLETED", j.log(job, "csplade-merge"))
    j.w.expect(not (j.w.folder / "d.jsonl.shards").exists(), "the parts are still there")
    j.w.must("encode", *words, "--output", "single.jsonl")
    merged, single = ([json.loads(line) for line in (j.w.folder / f"{name}.jsonl").open()]
                      for name in ("d", "single"))
    j.w.expect(merged[0] == single[0] and len(merged) == len(single) == 101, "another header")
    # Micro-batches of a part round differently.
    same = [a["id"] == b["id"] and a["vector"].keys() == b["vector"].keys() and
            all(abs(a["vector"][t] - x) < 1e-4 for t, x in b["vector"].items())
            for a, b in zip(merged[1:], single[1:])]
    j.w.expect(all(same), f"other rows: {same}")


def two_machines_train_as_one(j):
    """Two ranks on each; the exchange of four ranks over TCP gives what one rank does."""
    job = j.run_page("sh slurm nodes")[0]
    log = j.log(job)
    j.w.expect("4 ranks started by srun, 2 of them on this machine" in log, log)
    j.w.expect(f"SLURM job {job} on n[1-2]" in log, log)
    j.w.expect_exit(j.w.train("one", *SHORT, "device.threads=1"), 0)
    got, want = (j.w.metrics(name) for name in ("runs/b", "one"))
    j.w.expect(len(got) == len(want) == 4 and
               all(abs(a["loss"] - b["loss"]) <= 1e-5 * b["loss"] for a, b in zip(got, want)),
               f"{got}\n{want}")


def a_machine_that_is_gone_costs_what_was_not_saved(j):
    """SLURM queues the job again, and it goes on when there is a machine."""
    long = [word.replace("=400", "=1500") for word in LONG]
    job = j.train("lost", *long, "run.save_steps=20", script="train-nodes.sbatch")
    j.cluster.until(lambda: len(j.w.checkpoints("lost")) > 1, "no checkpoint")
    j.cluster.kill_node("n2")
    j.cluster.until(lambda: j.cluster.show(job).get("Restarts") == "1", "it is not queued again")
    j.w.expect("has gone without a word" in j.log(job), j.log(job))
    saved = j.w.checkpoints("lost")[-1]
    j.cluster.start_node("n2")
    j.cluster.until(lambda: f"going on from lost/checkpoints/{saved}" in j.log(job), "it is not back")
    j.cluster.call("scancel", job)
    j.cluster.wait(job)


SUITES = [(1, [a_job_trains_on_all_its_tasks, preemption_costs_no_step,
               commands_stop_a_job_with_a_checkpoint, a_failing_rank_fails_the_job, a_killed_rank_fails_the_job,
               ranks_meet_over_tcp_where_there_is_no_pmix, what_the_page_shows_runs,
               a_task_without_a_line_is_refused, what_no_task_has_encoded_is_named]),
          (2, [two_machines_train_as_one, a_machine_that_is_gone_costs_what_was_not_saved])]


def main():
    program, source, *chosen = sys.argv[1:]
    missing = missing_program()
    if missing is not None:
        print(f"skipped: {missing} is not installed (Debian: slurm-wlm)")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        w = Workspace(Path(program).resolve(), folder)
        for nodes, tests in SUITES:
            tests = [t for t in tests if not chosen or t.__name__ in chosen]
            if not tests:
                continue
            with Cluster(Path(folder) / f"cluster-{nodes}", nodes) as cluster:
                jobs = Jobs(w, cluster, source)
                for test in tests:
                    print(test.__name__.replace("_", " "), flush=True)
                    test(jobs)
        return w.finish()


if __name__ == "__main__":
    sys.exit(run_watched(main))
