#!/usr/bin/env python3
"""csplade search and export over vector files: a case by hand, ties, shards, and what is refused.
Arguments: the program."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = sys.argv[1]
failures = []


def run(*words):
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)


def expect(condition, what):
    if not condition:
        failures.append(what)


def write(path, rows, header=None):
    with path.open("w") as stream:
        if header is not None:
            stream.write(json.dumps({"csplade_vectors": header}) + "\n")
        for name, vector in rows:
            stream.write(json.dumps({"id": name, "vector": vector}) + "\n")
    return path


def header(side, vocab, **contract):
    meta = {"contract": contract} if contract else {}
    return {"format_version": 1, "vocab": vocab, "side": side, "meta": meta}


CONTRACT = {
    "version": 1, "variant": "causal", "query_prefix": "query: ", "passage_prefix": "passage: ",
    "query_max_len": 192, "passage_max_len": 192, "add_bos": False, "append_eos": False,
    "bos_id": -1, "eos_id": -1, "title_separator": " ", "logit_scale": 1.0, "exclude_ids": [],
    "pooling": "max", "top_k_query": 0, "top_k_passage": 0, "quant_scale": 100.0,
}
DOCS = [("a", {"1": 1.5, "3": 2}), ("b", {"3": 1}), ("c", {}), ("d", {"3": 1, "7": 4})]
QUERIES = [("q1", {"3": 2}), ("q2", {"8": 1}), ("q3", {"1": 1, "7": 0.25})]


def searching(folder):
    docs, queries = write(folder / "d.jsonl", DOCS), write(folder / "q.jsonl", QUERIES)
    out = folder / "run.txt"
    result = run("search", "--index", docs, "--queries", queries, "--output", out, "--tag", "t")
    expect(result.returncode == 0, result.stderr)
    sizes = dict(line.split() for line in result.stdout.splitlines())
    packed = int(sizes.pop("index_bytes", 0))
    # 4 of 3 and 5 of 4; (1/4 + 3/4 + 1/4) / 3 products of a query and a document; 5 postings.
    want = {"queries": "3", "documents": "4", "query_terms": "1.33", "document_terms": "1.25",
            "index_flops": "0.4167"}
    expect(sizes == want and packed >= 5, result.stdout)
    # b and d have equal scores: the larger id first, as trec_eval breaks ties.
    want = ["q1 Q0 a 1 4 t", "q1 Q0 d 2 2 t", "q1 Q0 b 3 2 t", "q3 Q0 a 1 1.5 t", "q3 Q0 d 2 1 t"]
    expect(out.read_text().split("\n") == want + [""], out.read_text())
    run("search", "--index", docs, "--queries", queries, "--output", out, "-k", 1)
    expect(len(out.read_text().splitlines()) == 2, "--depth 1")
    halves = [write(folder / f"d{i}.jsonl", DOCS[i::2], header("document", 9)) for i in (0, 1)]
    both = folder / "both.txt"
    result = run("search", "--index", halves[0], "--index", halves[1], "--queries", queries,
                 "--output", both, "--tag", "t")
    expect(both.read_text().split("\n") == want + [""], result.stderr)


def refusing(folder):
    docs = write(folder / "rd.jsonl", DOCS, header("document", 9, **CONTRACT))
    queries = write(folder / "rq.jsonl", QUERIES, header("query", 9, **CONTRACT))
    other = write(folder / "ro.jsonl", QUERIES, header("query", 9, **{**CONTRACT, "add_bos": True,
                                                                     "bos_id": 2}))
    wide = write(folder / "rw.jsonl", QUERIES, header("query", 20))
    later = write(folder / "rl.jsonl", [("e", {"3": 1})],
                  header("document", 9, **{**CONTRACT, "passage_prefix": ""}))
    out, base = folder / "r.txt", ["search", "--index", docs]
    expect(run(*base, "--queries", queries, "--output", out).returncode == 0, "equal contracts")
    out.unlink()
    cases = [
        (["--queries", other, "--output", out], 3, "contracts of"),
        (["--index", later, "--queries", queries, "--output", out], 3, "rl.jsonl and of the queries"),
        (["--queries", wide, "--output", out], 3, "20 terms"),
        (["--queries", queries], 2, "--output RUN is required"),
        (["--queries", queries, "--output", out, "text"], 2, "either --queries"),
        (["--queries", queries, "--output", out, "--device", "cpu"], 2, "--device has no use with --queries"),
        (["--queries", queries, "--output", out, "--terms", "3"], 2, "--terms belongs to texts printed"),
        (["--model", folder, "--tag", "a", "text"], 2, "--tag belongs to a run"),
        (["text"], 2, "need --model"),
        ([], 2, "either --queries"),
        (["--queries", folder / "none.jsonl", "--output", out], 1, "none.jsonl"),
        (["--queries", queries, "--output", out, "-k", "0"], 2, "0 is not in 1.."),
    ]
    for words, code, message in cases:
        result = run(*base, *words)
        expect(result.returncode == code and message in result.stderr and not out.exists(),
               f"{words}: {result.returncode} {result.stderr}")
    result = run(*base, "--queries", other, "--output", out, "--ignore-contract")
    expect(result.returncode == 0 and "add_bos" in result.stderr, result.stderr)
    expect(run("search", "--queries", queries, "--output", out).returncode == 2, "no --index")


def exporting(folder):
    docs = write(folder / "ed.jsonl", DOCS)
    for form, name in (("seismic", "documents.jsonl"), ("ciff", "index.ciff"),
                       ("anserini", "docs/docs-00000-of-00001.jsonl")):
        result = run("export", "--vectors", docs, "--format", form, "--output", folder / form)
        expect(result.returncode == 0 and (folder / form / name).exists(), result.stderr)
        manifest = json.loads((folder / form / "manifest.json").read_text())
        expect(manifest["rows"] == 4 and manifest["empty_rows"] == 1, manifest)
    rows = (folder / "anserini/docs/docs-00000-of-00001.jsonl").read_text().splitlines()
    expect(json.loads(rows[0]) == {"id": "a", "contents": "", "vector": {"1": 150, "3": 200}}, rows)
    cases = [
        (["--format", "ciff", "--quant", "none"], 2, ""),
        (["--format", "ciff", "--quant", "half"], 2, "half"),
        (["--format", "seismic", "--shards", "2"], 2, "--shards belongs"),
        (["--format", "seismic", "--term", "token"], 2, "need --tokenizer"),
        (["--format", "seismic", "--tokenizer", "x"], 2, "--tokenizer belongs"),
    ]
    for words, code, message in cases:
        result = run("export", "--vectors", docs, "--output", folder / "x", *words)
        expect(result.returncode == code and message in result.stderr,
               f"{words}: {result.returncode} {result.stderr}")
    expect(run("export", "--format", "ciff", "--output", folder / "y").returncode == 2, "no vectors")


def main():
    with tempfile.TemporaryDirectory() as folder:
        searching(Path(folder))
        refusing(Path(folder))
        exporting(Path(folder))
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
