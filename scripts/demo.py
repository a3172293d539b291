#!/usr/bin/env python3
"""The main job on real text, step by step; called by scripts/demo.sh, which installs and builds.

Each step leaves a stamp in the work folder and is passed over when it is called again. Every number of
the table comes from files that `csplade` wrote: nothing is computed here but the number of steps
that fit into the time, and the layout of the table.
"""
import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = ["data", "tokenizer", "speed", "scratch", "adapted", "encode", "report"]

# One block that begins as the identity, under a constant that keeps random logits mostly below zero:
# such a model is a matcher of equal words from its first step, and learns expansion from there. After
# 200 steps at temperature 20 its InfoNCE was 3.07, that of two blocks of ordinary random weights 3.72.
# A narrow MLP makes a step a third shorter and costs nothing (nDCG@10 of the dev queries after 1,000
# steps: 0.270 with 512, 0.278 with 128); neither does a width of 192 or a vocabulary of 16,384 help in
# the time there is (0.252 and 0.242 after 700).
SHAPE = ["--hidden", "128", "--layers", "1", "--heads", "4", "--intermediate", "128",
         "--logit-offset", "0.4", "--residual-scale", "0"]

# What differs between the two data sets. after_s: seconds kept for encoding, searching and the
# report; adapt: share of the training time; pool: documents all models are compared on.
PLANS = {
    "wordnet": dict(vocab=8192, shape=SHAPE, after_s=230, adapt=0.05, pool=10000,
                    query="a person who studies the stars",
                    title="csplade demo: a reverse dictionary from WordNet"),
    "debian": dict(vocab=8192, shape=SHAPE, after_s=200, adapt=0.05, pool=10000,
                   query="program that plays music in a terminal",
                   title="csplade demo: Debian package descriptions"),
}


class Demo:
    def __init__(self, args):
        self.args = args
        self.plan = PLANS[args.data]
        self.work = os.path.abspath(args.work or os.path.join(ROOT, "demo-" + args.data))
        self.beir = self.path("beir")
        os.makedirs(self.work, exist_ok=True)

    def path(self, *parts):
        return os.path.join(self.work, *parts)

    def say(self, text):
        print("\n== %s  (%d s)" % (text, time.time() - self.args.started), file=sys.stderr, flush=True)

    def csplade(self, *words, quiet=False):
        """Runs the program; its results (stdout) as a dict of "name value" lines."""
        command = [self.args.csplade, *map(str, words)] + (["-q", "--no-progress"] if quiet else [])
        if words[0] in ("train", "encode"):
            command += ["--device", self.args.device]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit("demo: `%s` ended with %d" % (" ".join(command), done.returncode))
        pairs = (line.split(None, 1) for line in done.stdout.splitlines())
        return {p[0]: p[1] for p in pairs if len(p) == 2}

    # -- steps -------------------------------------------------------------------------------------

    def data(self):
        self.say("fetching and preparing the text")
        getattr(self, "fetch_" + self.args.data)()

    def fetch_wordnet(self):
        archive = self.path("archive")
        os.makedirs(archive, exist_ok=True)
        if not glob.glob(os.path.join(archive, "wordnet-base_*.deb")):
            subprocess.run(["apt-get", "download", "-q", "wordnet-base"], cwd=archive, check=True,
                           stdout=sys.stderr)
        deb = glob.glob(os.path.join(archive, "wordnet-base_*.deb"))[0]
        files = os.path.join(archive, "files")
        subprocess.run(["dpkg", "-x", deb, files], check=True)
        subprocess.run([sys.executable, os.path.join(ROOT, "scripts/demo_wordnet.py"),
                        files + "/usr/share/wordnet",
                        files + "/usr/share/doc/wordnet-base/copyright", self.beir], check=True,
                       stdout=sys.stderr)

    def fetch_debian(self):
        # A private list folder: the machine's own apt state stays as it is.
        lists, cache = self.path("archive", "lists"), self.path("archive", "cache")
        for folder in (lists + "/partial", cache + "/archives/partial"):
            os.makedirs(folder, exist_ok=True)
        subprocess.run(["apt-get", "-q", "-o", "Acquire::Languages=en",
                        "-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + cache,
                        "-o", "APT::Sandbox::User=", "-o", "Acquire::GzipIndexes=false",
                        "-o", "Debug::NoLocking=true", "update"], check=True, stdout=sys.stderr)
        subprocess.run([sys.executable, os.path.join(ROOT, "scripts/demo_debian.py"), lists,
                        self.beir], check=True, stdout=sys.stderr)

    def tokenizer(self):
        self.say("training a tokenizer, making a small random model")
        for folder in ("tokenizer", "model"):
            shutil.rmtree(self.path(folder), ignore_errors=True)
        self.csplade("tokenize", "--train", "--vocab-size", self.plan["vocab"], "--lowercase",
                     "--output", self.path("tokenizer"), os.path.join(self.beir, "adapt.txt"))
        self.csplade("init", "--tokenizer", self.path("tokenizer"), *self.plan["shape"],
                     "--output", self.path("model"))

    def settings(self, run, phases):
        beir = self.beir
        return [os.path.join(ROOT, "configs", "demo.yaml" if self.args.data == "wordnet"
                             else "demo-debian.yaml"),
                "model.path=" + self.path("model"), "data.corpus=" + beir + "/corpus.jsonl",
                "data.queries=" + beir + "/queries.jsonl",
                "data.qrels=" + beir + "/qrels/train.tsv", "data.text=" + beir + "/adapt.txt",
                "data.dev_queries=" + beir + "/queries.dev.jsonl",
                "data.dev_qrels=" + beir + "/qrels/dev.tsv", "run.phases=[%s]" % phases,
                "run.output_dir=" + self.path("runs", run)]

    def step_seconds(self, phase):
        """Seconds of one optimizer step, the median over some, checkpoints and start-up left out."""
        shutil.rmtree(self.path("runs", "speed"), ignore_errors=True)
        self.csplade("train", *self.settings("speed", phase), "adapt.max_steps=8",
                     "contrastive.max_steps=16", "run.eval_steps=0", quiet=True)
        with open(self.path("runs", "speed", "metrics.jsonl")) as lines:
            ends = [json.loads(line)["elapsed_s"] for line in lines]
        shutil.rmtree(self.path("runs", "speed"))
        steps = sorted(b - a for a, b in zip(ends, ends[1:]))
        return steps[len(steps) // 2]

    def speed(self):
        """Fixes the numbers of steps from the machine's speed and the time that is left."""
        self.say("measuring the speed of this machine")
        shutil.rmtree(self.path("runs"), ignore_errors=True)
        adapt_s, contrastive_s = self.step_seconds("adapt"), self.step_seconds("contrastive")
        left = self.args.minutes * 60 - (time.time() - self.args.started) - self.plan["after_s"]
        left = max(left, 60.0)
        adapt = left * self.plan["adapt"]
        plan = {"adapt": max(10, int(adapt / adapt_s)),
                "scratch": max(20, int((left - adapt) / contrastive_s))}
        with open(self.path("steps.json"), "w") as out:
            json.dump(plan, out)
        print("%.3f s a step adapting, %.3f s contrastive; %d s to train in: %s"
              % (adapt_s, contrastive_s, left, plan), file=sys.stderr)

    def planned(self):
        with open(self.path("steps.json")) as lines:
            return json.load(lines)

    def every(self, steps):
        """Checkpoints and lines by the length of the run: on a GPU a step may take a millisecond, and
        what suits some thousand steps of a CPU would write to disk all the time."""
        return ["run.save_steps=%d" % max(steps // 8, 200), "run.logging_steps=%d" % max(steps // 100, 10)]

    def scratch(self):
        """Evaluated six times, or on a GPU, which sees the text a hundred times, some thirty: it may be best
        long before the last step."""
        steps = self.planned()["scratch"]
        self.say("contrastive training from scratch: %d steps" % steps)
        said = self.csplade("train", *self.settings("scratch", "contrastive"), *self.every(steps),
                            "contrastive.max_steps=%d" % steps,
                            "run.eval_steps=%d" % max(min(steps // 6, 2000), steps // 30, 1))
        with open(self.path("trained"), "w") as out:
            out.write(said["best"].split()[0])

    def adapted(self):
        steps = self.planned()["adapt"]
        self.say("adaptation: %d steps of language modelling" % steps)
        self.csplade("train", *self.settings("adapted", "adapt"), *self.every(steps),
                     "adapt.max_steps=%d" % steps, "run.eval_steps=%d" % steps)

    def checkpoint(self, run, phase):
        return sorted(glob.glob(self.path("runs", run, "checkpoints", phase + "-*.h5")))[-1]

    def make_pool(self):
        """The documents on which all models are compared: the judged ones and the first others."""
        judged, pool = set(), self.path("pool.jsonl")
        for split in ("dev", "test"):
            with open(os.path.join(self.beir, "qrels", split + ".tsv")) as lines:
                judged.update(line.split("\t")[1] for line in lines.readlines()[1:])
        kept, others = 0, max(0, self.plan["pool"] - len(judged))
        with open(os.path.join(self.beir, "corpus.jsonl")) as lines:
            total = sum(1 for _ in lines)
            every = max(1, (total - len(judged)) // max(others, 1))
            lines.seek(0)
            with open(pool, "w") as out:
                for i, line in enumerate(lines):
                    if json.loads(line)["_id"] in judged or i % every == 0:
                        out.write(line)
                        kept += 1
        return pool, kept

    def bm25(self, name, corpus):
        out = {}
        for split in ("dev", "test"):
            out = self.csplade("bm25", "--corpus", corpus, "--queries",
                               os.path.join(self.beir, "queries.%s.jsonl" % split), "--output",
                               self.path("eval", "%s.%s.run" % (name, split)))
        self.keep(name, out)

    def keep(self, name, sizes):
        """Measures the test run of a name and writes it down beside its sizes."""
        with open(self.path("eval", name + ".json"), "w") as out:
            json.dump({"sizes": sizes, "values": self.measure(name)}, out)

    def measure(self, name):
        done = subprocess.run([self.args.csplade, "eval", "--qrels",
                               os.path.join(self.beir, "qrels", "test.tsv"), "--run",
                               self.path("eval", name + ".test.run"), "-o", "json"],
                              stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)

    def judge(self, name, model, corpus, *contract):
        """Encodes corpus and queries, searches, measures; contract: options that override it."""
        if os.path.exists(self.path("eval", name + ".json")):
            return
        docs, sizes = self.path("eval", name + ".docs.h5"), {}
        self.csplade("encode", "--model", model, "--input", corpus, "--output", docs, *contract)
        for split in ("dev", "test"):
            queries = self.path("eval", "%s.%s.h5" % (name, split))
            self.csplade("encode", "--model", model, "--side", "query", "--input",
                         os.path.join(self.beir, "queries.%s.jsonl" % split), "--output", queries,
                         *contract, quiet=True)
            # An override is of one side, so the two contracts differ in the other's prefix.
            ignore = ["--ignore-contract"] if contract else []
            sizes = self.csplade("search", "--index", docs, "--queries", queries, "--output",
                                 self.path("eval", "%s.%s.run" % (name, split)), *ignore)
        self.keep(name, sizes)

    def fuse(self, name, one, two):
        """one interpolated with two; the weight is chosen on the dev queries."""
        runs = {s: [self.path("eval", "%s.%s.run" % (n, s)) for n in (one, two)]
                for s in ("dev", "test")}
        found = self.csplade("fuse", "--run", runs["dev"][0], "--with", runs["dev"][1], "--tune",
                             os.path.join(self.beir, "qrels", "dev.tsv"))
        self.csplade("fuse", "--run", runs["test"][0], "--with", runs["test"][1], "--alpha",
                     found["alpha"], "--output", self.path("eval", name + ".test.run"))
        self.keep(name, {"alpha": found["alpha"]})

    def encode(self):
        shutil.rmtree(self.path("eval"), ignore_errors=True)
        os.makedirs(self.path("eval"))
        pool, kept = self.make_pool()
        self.say("comparing all models on %d documents" % kept)
        self.bm25("bm25", pool)
        # A folder without training has no contract of its own: it is read as the trained models are.
        self.judge("untrained", self.path("model"), pool, "--prefix", "", "--max-len", 32,
                   "--top-k", 256)
        self.judge("scratch", self.trained(), pool)
        self.judge("adapt", self.checkpoint("adapted", "adapt"), pool)
        self.fuse("fused", "scratch", "bm25")
        full = os.path.join(self.beir, "corpus.jsonl")
        self.say("encoding the whole corpus with the trained model")
        self.bm25("all.bm25", full)
        self.judge("all.best", self.trained(), full)
        self.fuse("all.fused", "all.best", "all.bm25")

    def load(self, name):
        with open(self.path("eval", name + ".json")) as lines:
            return json.load(lines)

    def trained(self):
        """The checkpoint that was best on the dev queries."""
        with open(self.path("trained")) as line:
            return line.read()

    # -- the table ---------------------------------------------------------------------------------

    def row(self, label, name):
        r = self.load(name)
        v, s = r["values"], r["sizes"]
        return [label] + ["%.3f" % v[m] for m in ("nDCG@10", "RR@10", "R@100")] + [
            s.get("query_terms", "-"), s.get("document_terms", "-"),
            "%.1f MB" % (int(s["index_bytes"]) / 1e6) if "index_bytes" in s else "-"]

    def table(self):
        plan = self.planned()
        pool = self.load("bm25")["sizes"]["documents"]
        everything = self.load("all.bm25")["sizes"]["documents"]
        rows = [self.row("BM25, %s documents" % pool, "bm25"),
                self.row("the model untrained", "untrained"),
                self.row("adapted (%d steps)" % plan["adapt"], "adapt"),
                self.row("contrastive from scratch (%d steps)" % plan["scratch"], "scratch"),
                self.row("the same, interpolated with BM25", "fused"),
                self.row("BM25, all %s documents" % everything, "all.bm25"),
                self.row("contrastive, all documents", "all.best"),
                self.row("the same, interpolated with BM25", "all.fused")]
        queries = self.load("bm25")["sizes"]["queries"]
        notes = ["%s held-out test queries. The first rows compare on a pool of %s documents (all "
                 "judged ones and an even sample), the last three on the whole corpus. Documents "
                 "keep at most 256 terms. The checkpoint, and the weight of an interpolation, are "
                 "chosen on the dev queries. Index: varint gaps and one byte of impact a posting." % (queries, pool),
                 "Adapted, then contrastive is left out: a few minutes of language modelling from "
                 "random weights raise the logits of frequent words so much that contrastive "
                 "training after them collapsed in both trials made. Adaptation is for models that "
                 "know a language already."]
        columns = ["", "nDCG@10", "MRR@10", "Recall@100", "terms/query", "terms/doc", "index"]
        return {"columns": columns, "rows": rows, "notes": notes}

    def report(self):
        table = self.table()
        with open(self.path("table.json"), "w") as out:
            json.dump(table, out, indent=1)
        model = self.trained()
        words = ["report", "--title", self.plan["title"], "--table", self.path("table.json"),
                 "--run", "scratch=" + self.path("runs", "scratch"), "--run",
                 "adapted=" + self.path("runs", "adapted"), "--model", model, "--query",
                 self.plan["query"], "--output", self.path("report.html")]
        for text in self.examples("queries.test.jsonl", 3):
            words += ["--query", text]
        for text in self.examples("corpus.jsonl", 4):
            words += ["--document", text]
        if os.path.exists(os.path.join(self.beir, "NOTICE")):
            words += ["--notice", os.path.join(self.beir, "NOTICE")]
        self.csplade(*words, quiet=True)

    def examples(self, name, count):
        """A few texts, evenly spread over a file."""
        with open(os.path.join(self.beir, name)) as lines:
            rows = [json.loads(line) for line in lines]
        chosen = rows[len(rows) // (2 * count)::len(rows) // count][:count]
        return [(r.get("title", "") + " " + r["text"]).strip() for r in chosen]

    def show(self):
        table = self.table()
        rows = [table["columns"]] + table["rows"]
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        print()
        for row in rows:
            print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                            for i, (cell, w) in enumerate(zip(row, widths))))
        for note in table["notes"]:
            print("\n" + note)
        print("\nreport: %s" % self.path("report.html"))
        print("\nAsk it yourself:\n\n  %s search --index %s --model %s \\\n    --corpus %s --query "
              "\"%s\"\n" % (os.path.relpath(self.args.csplade),
                            os.path.relpath(self.path("eval", "all.best.docs.h5")),
                            os.path.relpath(self.trained()),
                            os.path.relpath(os.path.join(self.beir, "corpus.jsonl")),
                            self.plan["query"]))
        print("whole demo: %d s" % (time.time() - self.args.started))

    def run(self):
        again = False
        for step in STEPS:
            stamp = self.path("done." + step)
            again = again or step == self.args.start_at
            if again and os.path.exists(stamp):
                os.unlink(stamp)
        for step in STEPS:
            stamp = self.path("done." + step)
            if not os.path.exists(stamp):
                getattr(self, step)()
                with open(stamp, "w"):
                    pass
        self.show()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--started", type=float, default=time.time())
    parser.add_argument("--csplade", required=True)
    parser.add_argument("--data", choices=sorted(PLANS), default="wordnet")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--work")
    parser.add_argument("--from", dest="start_at", choices=STEPS)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    Demo(parser.parse_args()).run()


if __name__ == "__main__":
    main()
