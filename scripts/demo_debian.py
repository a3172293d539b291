#!/usr/bin/env python3
"""Turns Debian's package descriptions into a retrieval task in the BEIR layout.

document = a package's long description;  query = its one-line synopsis, which is not part of the
           long description but shares words with it, so that BM25 is strong.

Kept are packages with at least 3 words of synopsis and 20 of description, the first of every
synopsis and of every description. Splits are by group: a hash of the first two dash-separated parts of
a package's name sends all of its group to test, dev or train, so that libfoo-doc does not give
libfoo-dev away.

LISTS is a folder of apt lists with *_i18n_Translation-en files, as
`apt-get -o Acquire::Languages=en update` makes them; compressed ones are read through apt-helper.

Writes OUT/{corpus.jsonl,queries.jsonl,queries.{dev,test}.jsonl,qrels/{train,dev,test}.tsv,adapt.txt,
NOTICE}. adapt.txt is what the tokenizer and the adaptation phase read: every description, those of
training packages behind their synopsis.

usage: demo_debian.py LISTS OUT [--test N] [--dev N] [--documents N]
"""
import argparse
import glob
import hashlib
import json
import os
import subprocess
import sys

MIN_SYNOPSIS_WORDS, MIN_DESCRIPTION_WORDS = 3, 20
APT_HELPER = "/usr/lib/apt/apt-helper"
NOTICE = """Package descriptions of Debian, as its archive's Translation-en files have them.
Every description is under the licence of its package (/usr/share/doc/PACKAGE/copyright).
"""


def list_files(folder):
    """Translation-en files, a release before its updates, so that the first of a name is its own."""
    names = glob.glob(os.path.join(glob.escape(folder), "*_i18n_Translation-en*"))
    return sorted(names, key=lambda n: ("-security" in n, "-updates" in n, n))


def read_text(path):
    if path.endswith("Translation-en"):
        with open(path, encoding="utf-8") as text:
            return text.read()
    done = subprocess.run([APT_HELPER, "cat-file", path], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode("utf-8")


def read_packages(folder):
    """{name: (synopsis, description)} of every package, white space folded."""
    packages = {}
    for path in list_files(folder):
        for record in read_text(path).split("\n\n"):
            name, synopsis, lines = None, None, None
            for line in record.split("\n"):
                if line.startswith("Package: "):
                    name = line[len("Package: "):].strip()
                elif line.startswith("Description-en: "):
                    synopsis, lines = line[len("Description-en: "):].strip(), []
                elif line.startswith(" ") and lines is not None:
                    lines.append("" if line.strip() == "." else line.strip())
            if name and synopsis and name not in packages:
                packages[name] = (" ".join(synopsis.split()), " ".join(" ".join(lines).split()))
    return packages


def keep(packages):
    """The packages that make a task: long enough, no synopsis and no description twice."""
    kept, seen = [], set()
    for name in sorted(packages):
        synopsis, description = packages[name]
        if (len(synopsis.split()) < MIN_SYNOPSIS_WORDS or
                len(description.split()) < MIN_DESCRIPTION_WORDS or
                ("s", synopsis) in seen or ("d", description) in seen):
            continue
        seen.update((("s", synopsis), ("d", description)))
        kept.append(name)
    return kept


def group_hash(name):
    """0..1, the same for all packages of a group."""
    digest = hashlib.sha256("-".join(name.split("-")[:2]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0 ** 64


def write(packages, names, out, share_dev, share_test):
    """Writes the files; {split: queries}."""
    counts = {"train": 0, "dev": 0, "test": 0}

    def create(name):
        return open(os.path.join(out, name), "w", encoding="utf-8")

    os.makedirs(os.path.join(out, "qrels"), exist_ok=True)
    with create("corpus.jsonl") as corpus, create("queries.jsonl") as queries, \
            create("adapt.txt") as adapt, create("queries.dev.jsonl") as dev_queries, \
            create("queries.test.jsonl") as test_queries, create("qrels/train.tsv") as train, \
            create("qrels/dev.tsv") as dev, create("qrels/test.tsv") as test:
        held_out = {"dev": dev_queries, "test": test_queries}
        qrels = {"train": train, "dev": dev, "test": test}
        for file in qrels.values():
            file.write("query-id\tcorpus-id\tscore\n")
        for name in names:
            synopsis, description = packages[name]
            x = group_hash(name)
            side = "test" if x < share_test else "dev" if x < share_test + share_dev else "train"
            counts[side] += 1
            corpus.write(json.dumps({"_id": name, "title": "", "text": description}) + "\n")
            line = json.dumps({"_id": "q:" + name, "text": synopsis}) + "\n"
            queries.write(line)
            if side == "train":
                adapt.write(synopsis + ". " + description + "\n")
            else:
                held_out[side].write(line)
                adapt.write(description + "\n")
            qrels[side].write("q:%s\t%s\t1\n" % (name, name))
    with create("NOTICE") as notice:
        notice.write(NOTICE)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists")
    parser.add_argument("out")
    parser.add_argument("--test", type=int, default=2000, help="about how many test queries")
    parser.add_argument("--dev", type=int, default=500, help="about how many dev queries")
    parser.add_argument("--documents", type=int, default=0,
                        help="only about N, whole groups by their hash; 0 = all")
    args = parser.parse_args()

    packages = read_packages(args.lists)
    if not packages:
        sys.exit("demo_debian.py: no *_i18n_Translation-en file with packages in " + args.lists)
    names = keep(packages)
    if args.documents and args.documents < len(names):
        # Another hash than the splits', or a small collection would have test groups only.
        share = args.documents / len(names)
        names = [n for n in names if group_hash("sample:" + "-".join(n.split("-")[:2])) < share]
    counts = write(packages, names, args.out, args.dev / len(names), args.test / len(names))
    print("%d packages, %d kept: %d to train on, %d dev, %d test"
          % (len(packages), len(names), counts["train"], counts["dev"], counts["test"]))


if __name__ == "__main__":
    main()
