#!/usr/bin/env python3
"""The demo's two data makers on small made-up archives: what becomes a document, what a query, and that
no text of a held-out query is in a training file; what its trainings are called with. Arguments: the
program (not used), the source folder."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(sys.argv[2]) / "scripts"
FOLDERS = ("corpus.jsonl", "queries.jsonl", "queries.dev.jsonl", "queries.test.jsonl", "adapt.txt",
           "NOTICE", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv")
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)


def run(script, *words):
    return subprocess.run([sys.executable, SCRIPTS / script, *map(str, words)],
                          capture_output=True, text=True, check=False)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judged(folder, split):
    lines = (folder / "qrels" / f"{split}.tsv").read_text().splitlines()
    expect(lines[0] == "query-id\tcorpus-id\tscore", f"header of {split}.tsv")
    return [tuple(line.split("\t")[:2]) for line in lines[1:]]


def check_folder(folder):
    """Ids join, the held-out files are the held-out queries, and their texts are not in adapt.txt."""
    for name in FOLDERS:
        expect((folder / name).exists(), f"{folder.name}: no {name}")
    queries = {q["_id"]: q["text"] for q in rows(folder / "queries.jsonl")}
    documents = {d["_id"] for d in rows(folder / "corpus.jsonl")}
    adapt = (folder / "adapt.txt").read_text()
    seen = []
    for split in ("train", "dev", "test"):
        pairs = judged(folder, split)
        seen += [q for q, _ in pairs]
        expect(all(q in queries and d in documents for q, d in pairs), f"{split}: ids do not join")
        if split != "train":
            held = [q["_id"] for q in rows(folder / f"queries.{split}.jsonl")]
            expect(held == list(dict.fromkeys(q for q, _ in pairs)), f"queries.{split}.jsonl")
            expect(not any(queries[q] in adapt for q in held), f"{split} is in adapt.txt")
    expect(sorted(set(seen)) == sorted(queries), "queries without a split")
    return queries, documents


def description(number):
    words = " ".join(f"word{number}x{i}" for i in range(25))
    return f" It does {words}.\n .\n   * a list entry\n"


def debian(folder):
    lists, out = folder / "lists", folder / "debian"
    lists.mkdir()
    records = [f"Package: lib{i // 2}-foo-{'ab'[i % 2]}\nDescription-md5: 0\n"
               f"Description-en: does the thing number {i} well\n{description(i)}" for i in range(80)]
    records += [f"Package: short\nDescription-md5: 0\nDescription-en: two words\n{description(90)}",
                "Package: brief\nDescription-md5: 0\nDescription-en: has a fine synopsis\n Too short.\n",
                f"Package: zz-twin\nDescription-md5: 0\nDescription-en: does the thing number 3 well\n"
                f"{description(91)}",
                f"Package: zz-copy\nDescription-md5: 0\nDescription-en: says the same as another\n"
                f"{description(4)}"]
    (lists / "x_dists_stable_main_i18n_Translation-en").write_text("\n".join(records))
    result = run("demo_debian.py", lists, out, "--dev", 15, "--test", 25)
    expect(result.returncode == 0 and "84 packages, 80 kept" in result.stdout, result.stderr)
    queries, documents = check_folder(out)
    expect(len(queries) == len(documents) == 80, "what is kept")
    first = rows(out / "corpus.jsonl")[0]
    expect(first["title"] == "" and first["text"].endswith("word0x24. * a list entry"), first)
    split = {q: s for s in ("train", "dev", "test") for q, _ in judged(out, s)}
    expect(all(split[f"q:lib{i}-foo-a"] == split[f"q:lib{i}-foo-b"] for i in range(40)),
           "a group is divided")
    expect(len(set(split.values())) == 3, "a split is empty")
    again = folder / "again"
    run("demo_debian.py", lists, again, "--dev", 15, "--test", 25)
    expect(all((again / n).read_bytes() == (out / n).read_bytes() for n in FOLDERS), "not repeatable")
    result = run("demo_debian.py", out, folder / "none")
    expect(result.returncode == 1 and "no *_i18n_Translation-en" in result.stderr, result.stderr)


def synset(offset, part, words, pointers, gloss):
    words = " ".join(f"{w} 0" for w in words)
    pointers = " ".join(f"{symbol} {target:08d} {part} 0000" for symbol, target in pointers)
    count = len(pointers.split()) // 4
    return (f"{offset:08d} 03 {part} {len(words.split()) // 2:02x} {words} {count:03d} "
            f"{pointers + ' ' if pointers else ''}| {gloss}  \n")


def wordnet(folder):
    source, out = folder / "wordnet", folder / "reverse"
    source.mkdir()
    (source / "copyright").write_text("a notice\n")
    nouns = [synset(i, "n", [f"thing{i}", f"big_thing{i}"], [("@", 0)] if i else [],
                    f'what number {i} is; "it stood {i} there"') for i in range(80)]
    nouns.append(synset(99, "n", ["double"], [("~", 5)], "what number 7 is"))
    (source / "data.noun").write_text("  1 the licence\n" + "".join(nouns))
    for part in ("verb", "adj", "adv"):
        (source / f"data.{part}").write_text("  1 the licence\n")
    result = run("demo_wordnet.py", source, source / "copyright", out, "--dev", 15, "--test", 25)
    expect(result.returncode == 0 and "81 entries" in result.stdout, result.stderr)
    queries, documents = check_folder(out)
    expect(len(documents) == 81 and len(queries) == 80, "one query for an equal definition")
    second = rows(out / "corpus.jsonl")[1]
    expect(second == {"_id": "n00000001", "title": "thing1, big thing1",
                      "text": "it stood 1 there. thing0, big thing0"}, second)
    pairs = [p for s in ("train", "dev", "test") for p in judged(out, s)]
    expect({d for q, d in pairs if q == "qn00000007"} == {"n00000007", "n00000099"}, "both relevant")
    expect((out / "NOTICE").read_text() == "a notice\n", "NOTICE")


def steps(folder):
    """Runs of a CPU and of a GPU, which makes some hundred times as many steps: a stand-in for csplade
    writes down what it is called with. Every command that computes gets the device."""
    work, calls = folder / "work", folder / "calls"
    work.mkdir()
    program = folder / "csplade"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\necho best b.h5 nDCG@10 0.5\n')
    program.chmod(0o755)
    for planned, saves, lines, evaluated in ((1000, 200, 10, 166), (240000, 30000, 2400, 8000)):
        (work / "steps.json").write_text(json.dumps({"adapt": 50, "scratch": planned}))
        calls.write_text("")
        subprocess.run([sys.executable, "-c", "import sys, demo; sys.argv = ['demo.py', *sys.argv[1:]]\n"
                        "demo.Demo.run = lambda d: (d.scratch(), d.adapted(), d.csplade('encode'))\n"
                        "demo.main()", "--csplade", program, "--work", work, "--device", "cuda:1"],
                       cwd=SCRIPTS, stderr=subprocess.DEVNULL, check=True)
        said = calls.read_text().splitlines()
        expect(len(said) == 3 and all(line.endswith(" --device cuda:1") for line in said), said)
        expect(f"run.save_steps={saves} run.logging_steps={lines} " in said[0] and
               f" run.eval_steps={evaluated} " in said[0], said[0])
        expect((work / "trained").read_text() == "b.h5", "the best checkpoint")
        expect("run.save_steps=200 run.logging_steps=10 adapt.max_steps=50" in said[1], said[1])


def main():
    with tempfile.TemporaryDirectory() as folder:
        steps(Path(folder))
        debian(Path(folder))
        wordnet(Path(folder))
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
