#!/usr/bin/env python3
"""Several ranks beside one on this machine's CPU: R ranks of one thread, over TCP and over MPI, against
one rank of R threads, on the same steps of real data.

    scripts/bench_ranks.py --csplade build/release/csplade --data FOLDER [--ranks 2] [--repeats 3]

FOLDER has corpus.jsonl, queries.jsonl and qrels/train.tsv. A tokenizer and a random model are made of
it. Ways take turns, so that what else the machine does meets all of them; a time is the median over
the repeats of the seconds that the steps took after the first two. Prints a table in Markdown;
docs/benchmarks/ranks.md keeps results. About four minutes on two cores; --repeats 1 is a look.
"""
import argparse
import datetime
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

CONFIG = """
model: {{path: model, query_max_len: 32, passage_max_len: 128, query_prefix: "", passage_prefix: ""}}
data: {{corpus: {data}, qrels: {data}/qrels/train.tsv, train_group_size: 4}}
contrastive: {{max_steps: {steps}, batch: {{queries: {queries}}}}}
run: {{phases: [contrastive], save_steps: 0, eval_steps: 0, logging_steps: 1000, checksum_steps: 0}}
"""
KINDS = {"full": [], "LoRA": ["lora.r=16"]}
WARM = 2  # steps that plan, allocate and read


def cpu_name():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return "%d x %s" % (len(names), names[0] if names else "unknown")


class Bench:
    def __init__(self, args, work):
        self.args, self.work = args, work
        self.csplade = os.path.abspath(args.csplade)

    def must(self, *words):
        done = subprocess.run([self.csplade, *map(str, words)], cwd=self.work, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit("bench_ranks: csplade %s: %s" % (" ".join(map(str, words)), done.stderr))
        return done.stdout

    def prepare(self):
        data = os.path.abspath(self.args.data)
        with open(os.path.join(data, "corpus.jsonl")) as lines, \
                open(os.path.join(self.work, "text.txt"), "w") as out:
            for line in lines:
                row = json.loads(line)
                out.write((row.get("title", "") + " " + row["text"]).replace("\n", " ") + "\n")
        self.must("tokenize", "--train", "--vocab-size", self.args.vocab, "--output", "tokenizer",
                  "text.txt")
        self.must("init", "--tokenizer", "tokenizer", "--hidden", self.args.hidden, "--layers",
                  self.args.layers, "--heads", self.args.hidden // 32, "--output", "model")
        with open(os.path.join(self.work, "config.yaml"), "w") as out:
            out.write(CONFIG.format(data=data, steps=WARM + self.args.steps,
                                    queries=self.args.queries))

    def run(self, kind, way):
        """The rows of metrics.jsonl of a run, without those of the first steps."""
        ranks = 1 if way == "one" else self.args.ranks
        words = [self.csplade, "train", "config.yaml", "run.output_dir=run", *KINDS[kind],
                 "device.name=cpu", "device.threads=%d" % (self.args.ranks // ranks)]
        shutil.rmtree(os.path.join(self.work, "run"), ignore_errors=True)
        if way == "MPI":
            words = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *words]
        env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        processes = []
        for rank in range(ranks if way == "TCP" else 1):
            if way == "TCP":
                env.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
                           MASTER_PORT=str(port))
            processes.append(subprocess.Popen(words, cwd=self.work, env=env, text=True,
                                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        said = [process.communicate()[1] for process in processes]
        if any(process.returncode != 0 for process in processes):
            sys.exit("bench_ranks: %s, %s: %s" % (kind, way, "\n".join(said)))
        with open(os.path.join(self.work, "run", "metrics.jsonl")) as lines:
            return [json.loads(line) for line in lines][WARM:]


def seconds_of(rows):
    return sum(row["tokens"] / row["tokens_per_s"] for row in rows)


def mean_of(rows, key):
    return statistics.fmean(row[key] for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csplade", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="that are measured")
    parser.add_argument("--queries", type=int, default=8, help="of a step, with 4 documents each")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="a line for each run in place of a table")
    args = parser.parse_args()
    ways = ["one", "TCP"] + (["MPI"] if shutil.which("mpirun") else [])

    with tempfile.TemporaryDirectory() as work:
        bench, runs = Bench(args, work), {}
        bench.prepare()
        version = bench.must("--version").strip()
        for repeat in range(args.repeats):
            for kind in KINDS:
                # Each in turn is the first, so that none profits from what another has left warm.
                for way in ways[repeat % len(ways):] + ways[:repeat % len(ways)]:
                    rows = bench.run(kind, way)
                    runs.setdefault((kind, way), []).append(rows)
                    print("%s %s: %.3f s a step" % (kind, way, seconds_of(rows) / len(rows)),
                          file=sys.stderr, flush=True)
                    if args.json:
                        print(json.dumps({"kind": kind, "way": way, "repeat": repeat,
                                          "step_s": seconds_of(rows) / len(rows),
                                          "tokens": mean_of(rows, "tokens"),
                                          "rank_wait": mean_of(rows, "rank_wait") if way != "one" else 0,
                                          "sent_mb": mean_of(rows, "rank_sent_mb") if way != "one" else 0}))
    if args.json:
        return
    print("%s, %s, %s. Llama of d = %d, %d layers, V = %d; %d queries and %d documents a step of %s, "
          "%.0f tokens; %d steps a run, %d runs of each, medians (smallest to largest).\n"
          % (datetime.date.today(), cpu_name(), version, args.hidden, args.layers, args.vocab,
             args.queries, 4 * args.queries, os.path.basename(os.path.abspath(args.data)),
             mean_of(runs["full", "one"][0], "tokens"), args.steps, args.repeats))
    print("| training | ranks x threads | s a step | of one rank | waited | slowest / mean | MB sent |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    missed = []
    for kind in KINDS:
        times = {way: sorted(seconds_of(rows) / len(rows) for rows in runs[kind, way]) for way in ways}
        one = statistics.median(times["one"])
        for way in ways:
            own, rows = statistics.median(times[way]), [row for run in runs[kind, way] for row in run]
            text = "| %s | %s | %.3f (%.3f to %.3f) | " % (
                kind, "1 x %d" % args.ranks if way == "one" else "%d x 1, %s" % (args.ranks, way),
                own, times[way][0], times[way][-1])
            if way == "one":
                print(text + "100 % | | | |")
                continue
            print(text + "%.1f %% | %.1f %% | %.3f | %.2f |"
                  % (100 * one / own, 100 * mean_of(rows, "rank_wait"), mean_of(rows, "rank_slowest"),
                     mean_of(rows, "rank_sent_mb")))
            if one / own < 0.9:
                missed.append("%s over %s" % (kind, way))
    print("\nAt least 90 %% of one rank: %s." % ("all" if not missed else "not " + ", ".join(missed)))


main()
