#!/usr/bin/env python3
"""The batch files of scripts/slurm on a real SLURM, of one and of two virtual nodes on the loopback.
Arguments: the program, the source folder, names of tests (all)."""
import json
import re
import sys
import tempfile
from pathlib import Path

from slurm_cluster import Cluster, missing_program
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
        cluster.env.update(CSPLADE=str(w.program), CSPLADE_SCRIPTS=str(self.scripts))
        (w.folder / "logs").mkdir(exist_ok=True)

    def submit(self, script, *words, options=()):
        return self.cluster.submit(self.scripts / script, *words, options=options, cwd=self.w.folder)

    def train(self, name, *settings, script="train.sbatch", options=SMALL):
        return self.submit(script, "config.yaml", f"run.output_dir={name}", "device.threads=1",
                           "run.rank_timeout_s=60", *settings, options=options)

    def log(self, job, script="csplade-train"):
        path = self.w.folder / f"logs/{script}-{job}.out"
        return path.read_text() if path.exists() else ""

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


def scancel_ends_with_a_checkpoint_for_good(j):
    job = j.train("cancelled", *LONG)
    j.steps_done("cancelled")
    j.cluster.call("scancel", job)
    end = j.cluster.wait(job)
    j.w.expect(end.get("JobState") == "CANCELLED" and end.get("Restarts") == "0", end)
    j.w.expect(len(j.w.checkpoints("cancelled")) == 1, j.log(job))


def a_failing_rank_fails_the_job(j):
    """With the exit code of the program, not of a signal, and a file of each rank."""
    (j.w.folder / "broken.tsv").write_text("query-id\tcorpus-id\tscore\nq1 d1\n")
    job = j.train("failed", "data.qrels=broken.tsv")
    j.expect_end(job, "FAILED", 3)
    for rank in range(2):
        failure = json.loads((j.w.folder / f"failed/failure.rank{rank}.json").read_text())
        j.w.expect(failure["exit_code"] == 3 and "broken.tsv" in failure["reason"], failure)


def an_array_trains_each_line_of_a_file(j):
    (j.w.folder / "ablations.txt").write_text(
        "# name, settings\nstandard\n\nno-flops contrastive.lambda_q=0 contrastive.lambda_d=0\n")
    job = j.submit("ablate.sbatch", "ablations.txt", "config.yaml", "runs", *SHORT,
                   "device.threads=1", options=["--array=1-3", *ONE])
    j.cluster.wait(job)
    for name in ("standard", "no-flops"):
        j.w.expect(len(j.w.metrics(f"runs/{name}")) == 4, f"{name}\n{j.cluster.logs()}")
    # The last line: the header of metrics is the same, the weight of the term is not.
    lambdas = [j.w.metrics(f"runs/{name}")[-1]["lambda_d"] for name in ("standard", "no-flops")]
    j.w.expect(lambdas[0] > 0 and lambdas[1] == 0, lambdas)
    third = j.log(f"{job}-3", "csplade-ablate")
    j.w.expect("must begin with a name" in third, third)
    j.w.expect(sorted(p.name for p in (j.w.folder / "runs").iterdir()) == ["no-flops", "standard"],
               "another folder")


def an_array_encodes_and_a_job_joins(j):
    """In parts as csplade encode --shard makes them; what is missing is named, and can be made up for."""
    words = ["--model", "model", "--input", "beir", "--threads", 1]

    def encode(parts, tasks):
        job = j.submit("encode.sbatch", parts, "docs.h5", *words, options=[f"--array={tasks}", *ONE])
        return j.submit("merge.sbatch", "docs.h5", options=[f"--dependency=afterany:{job}"])

    job = encode(3, "0,2")
    j.cluster.wait(job)
    log = j.log(job, "csplade-merge")
    j.w.expect(j.cluster.show(job).get("ExitCode") == "3:0" and
               "rows 33 to 65 of 100 are missing" in log, f"{log}\n{j.cluster.logs()}")
    j.w.expect(not (j.w.folder / "docs.h5").exists(), "a file that is not whole")
    job = encode(3, "1")
    j.cluster.wait(job)
    j.w.expect(j.cluster.show(job).get("JobState") == "COMPLETED", j.log(job, "csplade-merge"))
    j.w.expect(not (j.w.folder / "docs.h5.shards").exists(), "the parts are still there")
    j.w.must("encode", *words, "--output", "single.h5")
    merged, single = ((j.w.folder / f"{name}.h5").read_bytes() for name in ("docs", "single"))
    j.w.expect(merged == single, "not what one process encodes")


def two_machines_train_as_one(j):
    """Two ranks on each; the exchange of four ranks over TCP gives what one rank does."""
    job = j.train("nodes", *SHORT, script="train-nodes.sbatch", options=SMALL)
    j.expect_end(job, "COMPLETED")
    log = j.log(job)
    j.w.expect("4 ranks started by srun, 2 of them on this machine" in log, log)
    j.w.expect(f"SLURM job {job} on n[1-2]" in log, log)
    j.w.expect_exit(j.w.train("one", *SHORT, "device.threads=1"), 0)
    got, want = (j.w.metrics(name) for name in ("nodes", "one"))
    j.w.expect(len(got) == len(want) == 4 and
               all(abs(a["loss"] - b["loss"]) <= 1e-5 * b["loss"] for a, b in zip(got, want)),
               f"{got}\n{want}")


SUITES = [(1, [a_job_trains_on_all_its_tasks, preemption_costs_no_step,
               scancel_ends_with_a_checkpoint_for_good, a_failing_rank_fails_the_job,
               an_array_trains_each_line_of_a_file, an_array_encodes_and_a_job_joins]),
          (2, [two_machines_train_as_one])]


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
    sys.exit(main())
