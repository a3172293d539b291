#!/usr/bin/env python3
"""How much longer the slowest rank works than the mean, by the lengths of real texts: documents shared
out as they come, and as `csplade train` shares them (src/host/data/share.h).

    scripts/simulate_imbalance.py --csplade build/release/csplade --model FOLDER --data FOLDER
        [--ranks 2 8 64 1024] [--queries 64] [--group 8] [--steps 20] [--max-len 128] [--block 8]

FOLDER of --data has corpus.jsonl, queries.jsonl and qrels/train.tsv; --model has the tokenizer. A step
draws --queries a rank, each with its positive and --group - 1 random other documents. A rank's work is
its tokens; it is shared out by bytes, because texts are not tokenized before their rank is known.

    --block N  N ranks share a block of negatives (contrastive.negative_blocks is ranks / N): blocks that
               are stretches of the step, blocks that are dealt out by bytes as csplade does it
               (src/host/train/step_texts.c), and by tokens; each is then shared out among its ranks

    --share    reads lines "RANKS COST COST ..." and prints the rank of each text, on top of what the
               line before has shared where a line begins with "+": what
               tests/data/test_share_simulated.c compares with the program's own
"""
import argparse
import heapq
import json
import os
import random
import statistics
import subprocess
import sys

# As src/host/train/train_data.c has them: what a text costs beside its bytes, bytes of a token.
TEXT_COST, TOKEN_BYTES = 16, 4


def share(costs, ranks, load=None):
    """The rank of each text, longest first to the rank that has least and is not full; load is of each
    rank, and grows."""
    load = load if load is not None else [0] * ranks
    each, owner = len(costs) // ranks, [0] * len(costs)
    least, count = [(load[rank], rank) for rank in range(ranks)], [0] * ranks
    heapq.heapify(least)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        have, rank = heapq.heappop(least)
        owner[i], load[rank] = rank, have + costs[i]
        count[rank] += 1
        if count[rank] < each:
            heapq.heappush(least, (have + costs[i], rank))
    return owner


def cost_of(size, max_len):
    return TEXT_COST + min(size, TOKEN_BYTES * max_len)


class Texts:
    """Bytes and tokens of a collection's queries and documents, and which document answers which."""

    def __init__(self, args):
        self.args = args
        documents, self.documents = self.read("corpus.jsonl", args.max_len)
        queries, self.queries = self.read("queries.jsonl", args.query_max_len)
        self.pairs = []
        with open(os.path.join(args.data, "qrels", "train.tsv")) as lines:
            for line in lines.readlines()[1:]:
                query, document, score = line.split()
                if int(score) > 0 and query in queries and document in documents:
                    self.pairs.append((queries[query], documents[document]))

    def read(self, name, max_len):
        """{id: number}, and (cost, tokens) of each."""
        ids, texts = {}, []
        with open(os.path.join(self.args.data, name)) as lines:
            for line in lines:
                row = json.loads(line)
                ids[row["_id"]] = len(texts)
                texts.append(" ".join(((row.get("title") or "") + " " + row["text"]).split()))
        done = subprocess.run([self.args.csplade, "tokenize", "--model", self.args.model],
                              input="".join(text + "\n" for text in texts), text=True,
                              stdout=subprocess.PIPE, check=True)
        tokens = [min(line.count(",") + 1 if len(line) > 2 else 0, max_len)
                  for line in done.stdout.splitlines()]
        if len(tokens) != len(texts):
            sys.exit("simulate_imbalance: %d texts and %d lines of tokens" % (len(texts), len(tokens)))
        return ids, [(cost_of(len(text.encode()), max_len), count) for text, count in zip(texts, tokens)]


def draw(texts, ranks, chance):
    """Queries of a step, and their documents: all positives, then the others of each query in turn."""
    args = texts.args
    pairs = [chance.choice(texts.pairs) for _ in range(args.queries * ranks)]
    queries = [texts.queries[query] for query, _ in pairs]
    documents = [texts.documents[positive] for _, positive in pairs]
    documents += [chance.choice(texts.documents) for _ in range(len(pairs) * (args.group - 1))]
    return queries, documents


def step_of_blocks(texts, ranks, chance):
    """The slowest rank's tokens by the mean, of one step in blocks of negatives: stretches of it, blocks as
    they are dealt out, and as they were if tokens were known beforehand."""
    queries, documents = draw(texts, ranks, chance)
    each, others = texts.args.block, texts.args.group - 1
    groups = [[documents[i]] + documents[len(queries) + i * others:len(queries) + (i + 1) * others]
              for i in range(len(queries))]
    blocks, found = ranks // each, []
    for by in (None, 0, 1):
        if by is None:
            owner = [i * blocks // len(queries) for i in range(len(queries))]
        else:
            owner = share([queries[i][by] + sum(document[by] for document in groups[i])
                           for i in range(len(queries))], blocks)
        work = [0] * ranks
        for block in range(blocks):
            own = [i for i in range(len(queries)) if owner[i] == block]
            load = [0] * each
            for side in ([queries[i] for i in own], [document for i in own for document in groups[i]]):
                for rank, (_, count) in zip(share([text[by or 0] for text in side], each, load), side):
                    work[block * each + rank] += count
        found.append(max(work) / (sum(work) / ranks))
    return found


def step(texts, ranks, chance):
    """The slowest rank's tokens by the mean, of one step: of texts as they come, as they are shared, and as
    they were if their tokens were known beforehand."""
    queries, documents = draw(texts, ranks, chance)
    found = []
    for by in (None, 0, 1):
        work, load = [0] * ranks, [0] * ranks
        for side in (queries, documents):
            if by is None:
                owner = [i % ranks for i in range(len(side))]
            else:
                owner = share([text[by] for text in side], ranks, load)
            for rank, (_, count) in zip(owner, side):
                work[rank] += count
        found.append(max(work) / (sum(work) / ranks))
    return found


def answer_shares():
    load = []
    for line in sys.stdin:
        ranks, *costs = (int(word) for word in line.lstrip("+").split())
        load = load if line.startswith("+") else [0] * ranks
        print(" ".join(map(str, share(costs, ranks, load))), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--csplade")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument("--queries", type=int, default=64, help="of a rank in a step")
    parser.add_argument("--group", type=int, default=8, help="documents for each query")
    parser.add_argument("--steps", type=int, default=20, help="of 64 ranks; fewer of more")
    parser.add_argument("--max-len", type=int, default=128)
    parser.add_argument("--query-max-len", type=int, default=32)
    parser.add_argument("--block", type=int, metavar="N", help="ranks that share a block of negatives")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.share:
        return answer_shares()
    if not (args.csplade and args.model and args.data):
        parser.error("--csplade, --model and --data are needed")

    if args.block and any(ranks % args.block for ranks in args.ranks):
        parser.error("--block %d does not divide all of --ranks" % args.block)

    texts, chance = Texts(args), random.Random(1)
    counts = [count for _, count in texts.documents]
    if not args.json:
        print("%s: %d documents of %.0f tokens in the mean, standard deviation %.0f %% of it, cut at %d\n"
              % (os.path.basename(os.path.abspath(args.data)), len(counts), statistics.fmean(counts),
                 100 * statistics.pstdev(counts) / statistics.fmean(counts), args.max_len))
        print("| ranks | steps | as drawn | dealt by bytes, as in csplade | were they dealt by tokens |" if args.block
              else "| ranks | steps | as they come | shared by bytes, as in csplade | were they shared by tokens |")
        print("| --- | --- | --- | --- | --- |")
    for ranks in args.ranks:
        steps = max(2, min(args.steps, args.steps * 64 // ranks))
        found = [(step_of_blocks if args.block else step)(texts, ranks, chance) for _ in range(steps)]
        come, shared, known = (statistics.fmean(way) for way in zip(*found))
        if args.json:
            print(json.dumps({"ranks": ranks, "steps": steps, "as_they_come": come,
                              "shared": shared, "by_tokens": known}), flush=True)
        else:
            print("| %d | %d | +%.2f %% | +%.2f %% | +%.2f %% |"
                  % (ranks, steps, 100 * (come - 1), 100 * (shared - 1), 100 * (known - 1)), flush=True)


main()
