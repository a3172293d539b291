#!/usr/bin/env python3
"""The scaling model of docs/scaling.md: what a step costs on R GPUs, part by part, and what breaks first.

    scripts/scaling_model.py                      the tables of docs/scaling.md
    scripts/scaling_model.py --check|--write      whether they are there; puts them there
    scripts/scaling_model.py --cpu FILE           the same arithmetic against a measurement, of
                                                  bench_ranks.py --json

No figure of a GPU here is ours. Each input says where it is from: "arithmetic" follows from shapes and
from what csplade sends and keeps; "published" names who; "assumed" is a guess to be replaced by
`csplade bench` on the machine; "simulated" is scripts/simulate_imbalance.py on real lengths.
"""
import argparse
import json
import math
import os
import statistics
import sys

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs/scaling.md")
RANKS = [1, 8, 64, 256, 1024]
V = 128256

# name: (value, unit, kind, source)
INPUTS = {
    "product": (790e12, "FLOP/s", "assumed", "bf16 products of 8192^3 on an H100; the data sheet says 989e12"),
    "share": (0.85, "", "assumed", "of that which a whole step reaches: the goal of S1 in docs/benchmarks/gpu.md"),
    "memory": (3.0e12, "B/s", "assumed", "reads and writes of an H100; the data sheet says 3.35e12"),
    "nvlink": (370e9, "B/s", "assumed", "busbw between the 8 GPUs of a machine; the data sheet says 450e9 each way"),
    "nic": (45e9, "B/s", "assumed", "of each GPU between machines: nine tenths of 400 Gbit/s"),
    "latency": (20e-6, "s", "assumed", "of a collective, and as much again for each doubling of machines"),
    "copy": (25e9, "B/s", "assumed", "from a GPU to the memory of its host"),
    "files": (5e9, "B/s", "assumed", "a shared file system gives all readers or writers together"),
    "hidden": (0.8, "", "assumed", "of the sums of full gradients behind the backward pass"),
    "first": (0.2, "", "assumed", "of a step's documents that are in one micro-batch"),
    "interval": (600.0, "s", "assumed", "between checkpoints"),
    "restart": (300.0, "s", "assumed", "from a failure to the next step: queue, start, load"),
    "failure": (50e3 * 3600.0, "GPU s", "published", "between failures: 419 unexpected ones in 54 days of 16,384 "
                "H100 (arXiv 2407.21783) are one in 50,000 GPU hours"),
    "early": (1000.0, "terms", "assumed", "of a query at the beginning of training"),
    "late": (50.0, "terms", "assumed", "of a query at its end"),
    "density": (0.1, "", "assumed", "terms of a document by V, in the backward pass of the head"),
    "card": (80e9, "B", "published", "memory of an H100 (data sheet)"),
    "epoch": (500e3, "queries", "published", "of MS MARCO's training set, about (502,939; arXiv 1611.09268)"),
}
# By which share the slowest of R ranks is behind the mean: debpkg, as csplade shares texts out, from the
# table in docs/scaling.md.
IMBALANCE = {1: 0.0, 8: 0.0081, 64: 0.0134, 256: 0.0152, 1024: 0.0173}

QUERIES, QUERY_TOKENS, GROUP, TOKENS = 64, 12, 8, 80
DOCUMENTS = QUERIES * GROUP
T, TEXTS = QUERIES * QUERY_TOKENS + DOCUMENTS * TOKENS, QUERIES + DOCUMENTS
BLOCK = 64  # ranks that share negatives, where groups of them are used
BUCKET = 50e6  # bytes of gradients that are added up at once: run.bucket_mb


class Model:
    def __init__(self, name, L, d, F, H, G, E, tied, lora, recomputes):
        self.name, self.L, self.d, self.F, self.H, self.E, self.lora = name, L, d, F, H, E, lora
        self.kv, self.recomputes = G * E, recomputes
        self.blocks = L * (2 * d * H * E + 2 * d * self.kv + 3 * d * F)
        self.head = d * V
        self.all = self.blocks + self.head * (1 if tied else 2)
        self.adapters = L * 16 * (2 * (d + H * E) + 2 * (d + self.kv) + 3 * (d + F))
        self.trained = self.adapters if lora else self.all


def models():
    small, large = dict(L=16, d=2048, F=8192, H=32, G=8, E=64), dict(L=32, d=4096, F=14336, H=32, G=8, E=128)
    return [Model("1B, LoRA", **small, tied=True, lora=True, recomputes=False),
            Model("8B, LoRA", **large, tied=False, lora=True, recomputes=True),
            Model("1B, full", **small, tied=True, lora=False, recomputes=False),
            Model("8B, full", **large, tied=False, lora=False, recomputes=True)]


def value(name):
    return INPUTS[name][0]


def update(m, ranks):
    """AdamW, whose state is shared out in full training."""
    return 28 * m.trained / (1 if m.lora else ranks) / value("memory")


def compute(m, ranks):
    """Seconds of a rank's own work, without the scores."""
    passes = 2 + m.recomputes + (0 if m.lora else 1)
    squares = QUERIES * QUERY_TOKENS**2 + DOCUMENTS * TOKENS**2
    flop = (2 * m.blocks * T * passes + 4 * m.L * m.H * m.E * squares * (3.5 + m.recomputes) +
            2 * m.head * T + 2 * m.d * value("density") * V * TEXTS * (1 if m.lora else 2) +
            (6 * m.adapters * T if m.lora else 0))
    moved = 2 * m.L * T * ((12 * m.d + 4 * m.kv + 3 * m.F) * (1 + m.recomputes) +
                           16 * m.d + 6 * m.kv + 5 * m.F)
    return (flop / value("product") + moved / value("memory")) / value("share") + update(m, ranks)


def forward(m, tokens):
    return 2 * (m.blocks + m.head) * tokens / value("product") / value("share")


def backward(m):
    return (4 if not m.lora else 2) * m.blocks * T / value("product") / value("share")


def machines(ranks):
    return max(1, ranks // 8)


def latency(ranks):
    return 0.0 if ranks == 1 else value("latency") * (1 + math.log2(machines(ranks)))


def half_reduction(size, ranks):
    """Seconds of a reduce-scatter or an all-gather of so many bytes in all: in a machine over NVLink, then
    each GPU its eighth between machines."""
    local, count = min(ranks, 8), machines(ranks)
    return (size * (local - 1) / local / value("nvlink") +
            size / local * (count - 1) / count / value("nic") + latency(ranks))


def queries_out(ranks, terms):
    """8 bytes an entry to all, behind the forward pass of the documents."""
    return half_reduction(8 * terms * QUERIES * ranks, ranks)


def queries_back(ranks, terms):
    """4 bytes an entry as a sum; maxima and sums of the softmax; column sums of the vocabulary."""
    return (half_reduction(4 * terms * QUERIES * ranks, ranks) +
            2 * half_reduction(12 * QUERIES * ranks, ranks) + 2 * half_reduction(4 * V, ranks))


def scores(ranks):
    """Products of all queries with a rank's documents and both gradients, as if nothing were sparse: a bound."""
    return 6 * QUERIES * ranks * V * DOCUMENTS / value("product") / value("share")


def values(m, ranks):
    """Giving back bf16 weights of full training, whatever hides it."""
    return half_reduction(2 * m.trained, ranks)


def first_pass(m):
    """The first forward pass of a step where state is shared out: of documents."""
    return forward(m, value("first") * DOCUMENTS * TOKENS)


def gradients(m, ranks):
    """What is not hidden of adding up float32 gradients, and of giving back weights: of adapters nothing; of
    all weights the sums behind backward, the weights behind the update and the first forward pass."""
    half = half_reduction(4 * m.trained, ranks)
    if ranks == 1 or m.lora:
        return 2 * half if ranks > 1 else 0.0
    return (max((1 - value("hidden")) * half, half - backward(m)) +
            max(0.0, values(m, ranks) - update(m, ranks) - first_pass(m)))


def checkpoint_bytes(m):
    return 12 * m.trained + (0 if m.lora else 4 * m.all)


def checkpoint_pause(m, ranks):
    """The copy to the host; the file is written behind the steps."""
    return checkpoint_bytes(m) / (1 if m.lora else ranks) / value("copy")


def failures(ranks):
    """Share of the time that failures cost: half an interval is done again, and the restart."""
    return (value("interval") / 2 + value("restart")) * ranks / value("failure")


def step(m, ranks, terms, block=None):
    """Parts of a step, in seconds. block: ranks that share negatives, all if None."""
    together = min(ranks, block or ranks)
    alone = compute(m, ranks)
    parts = {"compute": alone,
             "imbalance": alone * IMBALANCE[ranks],
             "queries out": max(0.0, queries_out(together, terms) - forward(m, DOCUMENTS * TOKENS)),
             "scores": scores(together),
             "queries back": queries_back(together, terms) if ranks > 1 else 0.0,
             "gradients": gradients(m, ranks)}
    total = sum(parts.values())
    parts["checkpoints"] = total * checkpoint_pause(m, ranks) / value("interval")
    parts["failures"] = total * failures(ranks)
    return parts


def efficiency(m, ranks, terms, block=None):
    """Against one GPU: the same work there, without imbalance, exchange or reduction."""
    one = compute(m, ranks) + scores(1)
    return one / sum(step(m, ranks, terms, block).values())


def reserved(ranks):
    """Bytes that the exchange keeps for queries of which every term is active: term, weight, gradient."""
    return 12 * QUERIES * ranks * V


def state(m, ranks):
    """Weights in bf16; of what is trained float32 gradients, and 12 bytes of AdamW shared out in full training."""
    return 2 * m.all + 4 * m.trained + 12 * m.trained / (1 if m.lora else ranks)


def ms(seconds):
    return "0" if seconds == 0 else "%.2g" % (1e3 * seconds) if seconds < 0.1 else "%.0f" % (1e3 * seconds)


def gb(size):
    return "%.2g" % (size / 1e9) if size < 1e10 else "%.0f" % (size / 1e9)


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] +
                     ["| " + " | ".join(row) + " |" for row in rows])


def inputs_table():
    return table(["input", "value", "kind", "where it is from"],
                 [[name, "%.4g %s" % (number, unit), kind, source]
                  for name, (number, unit, kind, source) in INPUTS.items()])


def parts_table():
    names = list(step(models()[0], 1, 1.0))
    rows = []
    for m in models():
        for ranks in RANKS:
            parts = step(m, ranks, value("early"))
            rows.append([m.name, str(ranks)] + [ms(parts[name]) for name in names] +
                        ["%.0f %%" % (100 * efficiency(m, ranks, value("early")))])
    return table(["training", "GPUs"] + [name + ", ms" for name in names] + ["efficiency"], rows)


def efficiency_table():
    rows = []
    for m in models():
        for ranks in RANKS[1:]:
            rows.append([m.name, str(ranks)] +
                        ["%.1f %%" % (100 * efficiency(m, ranks, value(terms), block))
                         for block in (None, BLOCK) for terms in ("early", "late")])
    return table(["training", "GPUs", "all negatives, early", "late", "blocks of %d, early" % BLOCK, "late"], rows)


def values_table():
    rows = []
    for m in models():
        for ranks in RANKS[1:]:
            if not m.lora:
                sent, own = values(m, ranks), update(m, ranks)
                queries = forward(m, QUERIES * QUERY_TOKENS)
                rows.append([m.name, str(ranks)] + [ms(part) for part in
                            [sent, own, queries, first_pass(m), max(0.0, sent - own - queries),
                             max(0.0, sent - own - first_pass(m))]])
    return table(["training", "GPUs", "weights, ms", "update, ms", "queries' pass, ms", "documents' pass, ms",
                  "not hidden, queries first, ms", "documents first, ms"], rows)


def pieces_text():
    """What it would bring to cut the largest tensor into pieces of a bucket each, and what it would cost."""
    m, ranks = models()[3], 8
    size = 4 * V * m.d
    pieces = math.ceil(size / BUCKET)
    return ("The embedding of %s is %.2g GB of gradients, %d buckets' worth, and its sum, which takes %s ms among %d "
            "GPUs, begins only when the backward pass is over. It stays one piece all the same: no piece may be updated "
            "before all are summed, because clipping needs the norm of everything, so that pieces could only have "
            "their squares added up while the next one is summed (%s ms in all) and set out as weights while the next "
            "one is updated (%s ms), of a step of %s ms; and %d more collectives, of %.2g ms latency each, "
            "would cost %s ms. On more GPUs a rank's part, and with it the gain, is smaller, and the latency larger."
            % (m.name.split(",")[0], size / 1e9, pieces, ms(half_reduction(size, ranks)), ranks,
               ms(size / ranks / value("memory")), ms(28 * V * m.d / ranks / value("memory")),
               ms(compute(m, ranks)), 2 * (pieces - 1), 1e3 * latency(ranks),
               ms(2 * (pieces - 1) * latency(ranks))))


def memory_table():
    rows = [["queries of a step, every term active", "all"] + [gb(reserved(ranks)) for ranks in RANKS],
            ["the same, negatives of blocks of %d" % BLOCK, "all"] + [gb(reserved(min(ranks, BLOCK)))
                                                                   for ranks in RANKS],
            ["the same at %d terms a query, were it to grow as needed" % value("early"), "all"] +
            [gb(reserved(ranks) / V * value("early")) for ranks in RANKS]]
    rows += [["weights, gradients, AdamW", m.name] + [gb(state(m, ranks)) for ranks in RANKS] for m in models()]
    return table(["GB of a GPU", "training"] + ["%d" % ranks for ranks in RANKS], rows)


def first_ranks(condition):
    """The least power of two of ranks that meets a condition."""
    return next((2**i for i in range(0, 21) if condition(2**i)), None)


def breaks_table():
    m1, m8, full8 = models()[0], models()[1], models()[3]
    half = value("card") / 2
    rows = [
        (first_ranks(lambda r: value("epoch") / QUERIES / r < 100),
         "an epoch of %.0f k queries has fewer than 100 steps: statistics, not systems" % (value("epoch") / 1e3),
         "smaller batches a GPU, or collections of 100 M pairs"),
        (first_ranks(lambda r: reserved(r) > half),
         "the exchange's room for queries is above half of %s GB" % gb(value("card")),
         "negatives of blocks of ranks"),
        (first_ranks(lambda r: 2 * m8.all * machines(r) / value("files") > 60),
         "16 GB of weights, read once by every machine, take above a minute at %s GB/s" % gb(value("files")),
         "copies on the machines' own disks"),
        (first_ranks(lambda r: scores(r) > 0.1 * compute(m1, r)),
         "scores, were they dense, are above a tenth of a 1B step", "sparse products (late in training); blocks"),
        (first_ranks(lambda r: value("failure") / r < 7 * 86400),
         "a failure a week or more", "checkpoints that cost nothing, requeue: docs/slurm.md"),
    ]
    rows.sort(key=lambda row: row[0] or 1 << 30)
    text = table(["GPUs", "what breaks", "what helps"],
                 [[str(ranks) if ranks else "never", what, help_] for ranks, what, help_ in rows])
    return text + ("\n\nA checkpoint of full training of 8B is %s GB: written by one rank at %s GB/s it takes %.0f s, "
                   "shared out by all of a job the copy to the host pauses 64 GPUs for %.2g s."
                   % (gb(checkpoint_bytes(full8)), gb(value("files")), checkpoint_bytes(full8) / value("files"),
                      checkpoint_pause(full8, 64)))


TABLES = {"inputs": inputs_table, "parts": parts_table, "efficiency": efficiency_table,
          "values": values_table, "pieces": pieces_text, "memory": memory_table, "breaks": breaks_table}


def with_tables(text):
    for name, make in TABLES.items():
        begin, end = "<!-- %s -->\n" % name, "<!-- end -->"
        if begin not in text:
            sys.exit("scaling_model: docs/scaling.md has no <!-- %s -->" % name)
        head, rest = text.split(begin, 1)
        text = head + begin + make() + "\n" + rest[rest.index(end):]
    return text


def time_of(rows, size):
    """Seconds of a collective of so many bytes, between the measured sizes on a straight line."""
    points = sorted((row["size"], row["time_us"] * 1e-6) for row in rows)
    for (a, low), (b, high) in zip(points, points[1:]):
        if size <= b:
            return low + (high - low) * max(0.0, size - a) / (b - a)
    return points[-1][1] * size / points[-1][0]


def cpu_table(runs, comm):
    """What a rank sends, at the measured rate of all_reduce, on top of one rank's step: predicted share beside
    the measured one. Of ranks that share the cores of the one they are compared with.

    runs, comm: of bench_ranks.py --json, whose rows of csplade bench comm are of one transport or more."""
    steps, rows = {}, []
    for run in runs:
        steps.setdefault((run["kind"], run["way"]), []).append(run)
    for (kind, way), own in steps.items():
        reduce = [row for row in comm if row["what"] == "all_reduce" and row["transport"] == way.lower()]
        if not reduce:
            continue
        ranks, sent = reduce[0]["ranks"], own[0]["sent_mb"]
        median = statistics.median(run["step_s"] for run in own)
        one = statistics.median(run["step_s"] for run in steps[kind, "one"])
        spent = time_of(reduce, sent * 1e6 / (2 * (ranks - 1) / ranks))
        rows.append([kind, "%d, %s" % (ranks, way), "%.2f" % sent, "%.3f" % one,
                     "%.1f %%" % (100 * one / (one + spent)), "%.1f %%" % (100 * one / median)])
    return table(["training", "ranks", "MB sent", "s of one rank", "predicted", "measured"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cpu", metavar="FILE")
    args = parser.parse_args()
    if args.cpu:
        with open(args.cpu) as lines:
            rows = [json.loads(line) for line in lines]
        print(cpu_table([row for row in rows if "way" in row], [row for row in rows if "what" in row]))
        return 0
    if not args.check and not args.write:
        print("\n\n".join(make() for make in TABLES.values()))
        return 0
    with open(PAGE) as page:
        text = page.read()
    wanted = with_tables(text)
    if args.write:
        with open(PAGE, "w") as page:
            page.write(wanted)
    elif wanted != text:
        sys.exit("scaling_model: the tables of docs/scaling.md are not those of the script: --write")
    return 0


if __name__ == "__main__":
    sys.exit(main())
