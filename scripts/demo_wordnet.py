#!/usr/bin/env python3
"""Turns WordNet's database files into a reverse dictionary in the BEIR layout.

document = a synset's entry: its words (title), its example sentences and the words of its hypernyms
           and hyponyms (text);  query = its definition, which rarely shares a word with the entry.

Splits are by definition: a hash of its text sends it to test, dev or train, so that no text of a
test or dev definition is in any training file. Synsets that share a definition are all relevant to
the one query made of it.

Writes OUT/{corpus.jsonl,queries.jsonl,queries.{dev,test}.jsonl,qrels/{train,dev,test}.tsv,adapt.txt,
NOTICE}. adapt.txt is what the tokenizer and the adaptation phase read: every entry and the training definitions.

usage: demo_wordnet.py WORDNET_DIR COPYRIGHT_FILE OUT [--test N] [--dev N] [--documents N]
"""
import argparse
import hashlib
import json
import os
import re

PARTS = (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r"))
HYPERNYM_OR_HYPONYM = {"@", "@i", "~", "~i"}


def read_synsets(folder):
    """{id: (words, definition, examples, related ids)} of every synset, in file order."""
    synsets = {}
    for part, letter in PARTS:
        with open(os.path.join(folder, "data." + part), encoding="latin-1") as lines:
            for line in lines:
                if line.startswith("  "):  # the licence at the top
                    continue
                fields, gloss = line.split(" | ", 1)
                fields = fields.split()
                n_words = int(fields[3], 16)
                words = [re.sub(r"\((a|p|ip)\)$", "", w).replace("_", " ")
                         for w in fields[4:4 + 2 * n_words:2]]
                at = 4 + 2 * n_words
                pointers = [fields[at + 1 + 4 * i:at + 5 + 4 * i] for i in range(int(fields[at]))]
                related = [pos.replace("s", "a") + offset for symbol, offset, pos, _ in pointers
                           if symbol in HYPERNYM_OR_HYPONYM]
                examples = re.findall(r'"([^"]*)"', gloss)
                definition = re.sub(r'"[^"]*"', " ", gloss)
                definition = re.sub(r"\s+", " ", definition).strip(" ;:,")
                synsets[letter + fields[0]] = (words, definition, examples, related)
    return synsets


def entry(synsets, key):
    """(title, text) of a synset's document."""
    words, _, examples, related = synsets[key]
    near = []
    for other in related:
        for word in synsets[other][0]:
            if word not in near and word not in words:
                near.append(word)
    text = ". ".join(e.strip() for e in examples)
    if near:
        text = (text + ". " if text else "") + ", ".join(near)
    return ", ".join(words), text


def split_of(definition, share_dev, share_test):
    """train, dev or test: a pure function of the definition's text."""
    digest = hashlib.sha256(definition.lower().encode()).digest()
    x = int.from_bytes(digest[:8], "big") / 2.0 ** 64
    return "test" if x < share_test else "dev" if x < share_test + share_dev else "train"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wordnet")
    parser.add_argument("copyright")
    parser.add_argument("out")
    parser.add_argument("--test", type=int, default=2000, help="about how many test definitions")
    parser.add_argument("--dev", type=int, default=500, help="about how many dev definitions")
    parser.add_argument("--documents", type=int, default=0, help="only the first N by hash; 0 = all")
    args = parser.parse_args()

    synsets = read_synsets(args.wordnet)
    keys = list(synsets)
    if args.documents and args.documents < len(keys):
        keys = sorted(keys, key=lambda k: hashlib.sha256(k.encode()).digest())[:args.documents]
        keys.sort()
    os.makedirs(os.path.join(args.out, "qrels"), exist_ok=True)

    def path(name):
        return os.path.join(args.out, name)

    counts = {"train": 0, "dev": 0, "test": 0}
    with open(path("corpus.jsonl"), "w") as corpus, open(path("queries.jsonl"), "w") as queries, \
            open(path("adapt.txt"), "w") as adapt, open(path("qrels/train.tsv"), "w") as train, \
            open(path("qrels/dev.tsv"), "w") as dev, open(path("qrels/test.tsv"), "w") as test, \
            open(path("queries.dev.jsonl"), "w") as dev_queries, \
            open(path("queries.test.jsonl"), "w") as test_queries:
        held_out = {"dev": dev_queries, "test": test_queries}
        qrels = {"train": train, "dev": dev, "test": test}
        for file in qrels.values():
            file.write("query-id\tcorpus-id\tscore\n")
        by_definition = {}
        for key in keys:
            title, text = entry(synsets, key)
            corpus.write(json.dumps({"_id": key, "title": title, "text": text}) + "\n")
            adapt.write((title + " " + text).strip() + "\n")
            if synsets[key][1]:
                by_definition.setdefault(synsets[key][1].lower(), []).append(key)
        for relevant in by_definition.values():
            definition = synsets[relevant[0]][1]
            side = split_of(definition, args.dev / len(keys), args.test / len(keys))
            counts[side] += 1
            line = json.dumps({"_id": "q" + relevant[0], "text": definition}) + "\n"
            queries.write(line)
            if side != "train":
                held_out[side].write(line)
            for key in relevant:
                qrels[side].write("q%s\t%s\t1\n" % (relevant[0], key))
                if side == "train":
                    adapt.write(", ".join(synsets[key][0]) + ": " + definition + "\n")
    with open(args.copyright, encoding="utf-8") as notice, open(path("NOTICE"), "w") as out:
        out.write(notice.read())
    print("%d entries, %d definitions to train on, %d dev, %d test"
          % (len(keys), counts["train"], counts["dev"], counts["test"]))


if __name__ == "__main__":
    main()
