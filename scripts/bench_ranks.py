#!/usr/bin/env python3
"""Several ranks beside one on this machine's CPU: R ranks of one thread, over TCP and over MPI, against
one rank of R threads, on the same steps of real data; what goes between them (csplade bench comm); and
what the scaling model makes of both.

    scripts/bench_ranks.py --csplade build/release/csplade --data FOLDER [--ranks 2] [--repeats 3] [--write]

FOLDER has corpus.jsonl, queries.jsonl and qrels/train.tsv. A tokenizer and a random model are made of
it. Ways take turns, so that what else the machine does meets all of them; a time is the median over
the repeats of the seconds that the steps took after the first two. Prints tables in Markdown; --write
puts them into docs/benchmarks/ranks.md in place of those there. About four minutes on two cores;
--repeats 1 is a look.
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

import scaling_model

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs/benchmarks/ranks.md")
BEGIN, END = "<!-- bench_ranks -->\n", "<!-- end -->"
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

    def start(self, way, *words):
        """Runs the program on all ranks of a way, and ends with what one of them says if it fails; what
        rank 0 prints."""
        ranks = 1 if way == "one" else self.args.ranks
        words = [self.csplade, *words]
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
                                              stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        said = [process.communicate() for process in processes]
        if any(process.returncode != 0 for process in processes):
            sys.exit("bench_ranks: %s: %s" % (way, "\n".join(err for _, err in said)))
        return said[0][0]

    def run(self, kind, way):
        """The rows of metrics.jsonl of a run, without those of the first steps."""
        shutil.rmtree(os.path.join(self.work, "run"), ignore_errors=True)
        threads = self.args.ranks if way == "one" else 1
        self.start(way, "train", "config.yaml", "run.output_dir=run", *KINDS[kind], "device.name=cpu",
                   "device.threads=%d" % threads)
        with open(os.path.join(self.work, "run", "metrics.jsonl")) as lines:
            return [json.loads(line) for line in lines][WARM:]

    def comm(self, way):
        """The rows of csplade bench comm."""
        out = self.start(way, "bench", "comm", "--device", "cpu", "--threads", "1", "--steps", "5", "--min-bytes",
                         "32", "--max-bytes", str(self.args.comm_bytes), "--factor", "16", "--format", "json")
        return [json.loads(line) for line in out.splitlines()]


def seconds_of(rows):
    return sum(row["tokens"] / row["tokens_per_s"] for row in rows)


def mean_of(rows, key):
    return statistics.fmean(row[key] for row in rows)


def summary(run_rows, kind, way, repeat):
    """One run, as --json prints it and the scaling model takes it."""
    one = way == "one"
    return {"kind": kind, "way": way, "repeat": repeat, "step_s": seconds_of(run_rows) / len(run_rows),
            "tokens": mean_of(run_rows, "tokens"), "wait": 0.0 if one else mean_of(run_rows, "rank_wait"),
            "slowest": 1.0 if one else mean_of(run_rows, "rank_slowest"),
            "sent_mb": 0.0 if one else mean_of(run_rows, "rank_sent_mb")}


def steps_table(runs, args, ways):
    """Seconds of a step by way, and whether all are above 90 % of one rank."""
    rows, missed = [], []
    for kind in KINDS:
        own = {way: [run for run in runs if (run["kind"], run["way"]) == (kind, way)] for way in ways}
        one = statistics.median(run["step_s"] for run in own["one"])
        for way in ways:
            times = [run["step_s"] for run in own[way]]
            share = one / statistics.median(times)
            row = [kind, "1 x %d" % args.ranks if way == "one" else "%d x 1, %s" % (args.ranks, way),
                   "%.3f (%.3f to %.3f)" % (statistics.median(times), min(times), max(times)),
                   "%.1f %%" % (100 * share), "", "", ""]
            if way != "one":
                row[4:] = ["%.1f %%" % (100 * mean_of(own[way], "wait")), "%.3f" % mean_of(own[way], "slowest"),
                           "%.2f" % mean_of(own[way], "sent_mb")]
                missed += ["%s over %s" % (kind, way)] if share < 0.9 else []
            rows.append(row)
    return scaling_model.table(["training", "ranks x threads", "s a step", "of one rank", "waited",
                                "slowest / mean", "MB sent"], rows) + (
        "\n\nAt least 90 %% of one rank: %s." % ("all" if not missed else "all but " + ", ".join(missed)))


def comm_table(comm):
    """Time and busbw of each operation and size, side by side."""
    found = {}
    for row in comm:
        found.setdefault((row["what"], row["size"]), {})[row["transport"]] = row
    ways = list(dict.fromkeys(row["transport"] for row in comm))
    return scaling_model.table(
        ["operation", "bytes"] + ["%s, %s" % (way.upper(), what) for way in ways for what in ("us", "busbw GB/s")],
        [[what, str(size)] + [text for way in ways for text in ("%.1f" % own[way]["time_us"],
                                                              "%.3f" % own[way]["busbw"])]
         for (what, size), own in found.items()])


def report(bench, runs, comm, args, ways):
    version = bench.must("--version").strip()
    mpi = subprocess.run(["mpirun", "--version"], stdout=subprocess.PIPE, text=True).stdout.split("\n")[0] \
        if "MPI" in ways else "no MPI"
    return ("%s, %s, %s, %s. Llama of d = %d, %d layers, V = %d, float32; %d queries and %d documents a step of "
            "%s, %.0f tokens; %d steps a run, %d runs of each, medians (smallest to largest).\n\n%s\n\n"
            "What went between these ranks, `csplade bench comm` right after:\n\n%s\n\n"
            "What the scaling model makes of the two (`scripts/scaling_model.py --cpu`):\n\n%s\n"
            % (datetime.date.today(), cpu_name(), version, mpi, args.hidden, args.layers, args.vocab, args.queries,
               4 * args.queries, os.path.basename(os.path.abspath(args.data)), runs[0]["tokens"], args.steps,
               args.repeats, steps_table(runs, args, ways), comm_table(comm),
               scaling_model.cpu_table(runs, comm)))


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
    parser.add_argument("--comm-bytes", type=int, default=1 << 25, help="the largest size of bench comm")
    parser.add_argument("--json", action="store_true", help="a line for each run in place of tables")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks/ranks.md")
    args = parser.parse_args()
    ways = ["one", "TCP"] + (["MPI"] if shutil.which("mpirun") else [])

    with tempfile.TemporaryDirectory() as work:
        bench, runs, comm = Bench(args, work), [], []
        bench.prepare()
        for repeat in range(args.repeats):
            for kind in KINDS:
                # Each in turn is the first, so that none profits from what another has left warm.
                for way in ways[repeat % len(ways):] + ways[:repeat % len(ways)]:
                    runs.append(summary(bench.run(kind, way), kind, way, repeat))
                    print("%s %s: %.3f s a step" % (kind, way, runs[-1]["step_s"]), file=sys.stderr, flush=True)
        for way in ways[1:]:
            comm += bench.comm(way)
        if args.json:
            print("\n".join(json.dumps(row) for row in [*runs, *comm]))
            return
        text = report(bench, runs, comm, args, ways)
    print(text)
    if args.write:
        with open(PAGE) as page:
            before, rest = page.read().split(BEGIN, 1)
        with open(PAGE, "w") as page:
            page.write(before + BEGIN + text + rest[rest.index(END):])


if __name__ == "__main__":
    main()
