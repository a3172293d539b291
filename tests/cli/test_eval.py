#!/usr/bin/env python3
"""csplade eval: a case by hand, bad files, and the golden runs of the shared data where present.
Arguments: the program, the source folder."""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
SHARED = SOURCE.parent / "shared/data"
failures = []


def run(*words):
    return subprocess.run([PROGRAM, "eval", *map(str, words)], capture_output=True, text=True,
                          check=False)


def expect(condition, what):
    if not condition:
        failures.append(what)


def by_hand(folder):
    qrels, ranking = folder / "qrels.tsv", folder / "run.txt"
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t1\nq2\tc\t1\nq3\td\t1\n")
    ranking.write_text("q1 Q0 x 1 3.0 t\nq1 Q0 a 2 2.0 t\nq2 Q0 c 1 1.0 t\nq9 Q0 c 1 1.0 t\n")
    result = run("--qrels", qrels, "--run", ranking, "-o", "json", "--per-query")
    expect(result.returncode == 0, result.stderr)
    got = json.loads(result.stdout)
    ideal = 2 + 1 / math.log2(3)
    want = (2 / math.log2(3) / ideal + 1 + 0) / 3
    expect(abs(got["nDCG@10"] - want) < 1e-9, f"nDCG@10 {got['nDCG@10']} {want}")
    expect(abs(got["RR@10"] - 0.5) < 1e-12, f"RR@10 {got['RR@10']}")
    expect(abs(got["R@100"] - 0.5) < 1e-12, f"R@100 {got['R@100']}")
    expect(abs(got["AP"] - (0.25 + 1) / 3) < 1e-12, f"AP {got['AP']}")
    expect(got["per_query"]["q1"]["RR@10"] == 0.5 and got["queries"] == 3, str(got))
    expect(got["unanswered"] == 1 and got["unjudged"] == 1, str(got))
    expect("1 of 3 judged queries are not in the run" in result.stderr, result.stderr)
    text = run("--qrels", qrels, "--run", ranking, "-m", "RR@10", "-q", "--per-query")
    expect(text.stdout == "q1\tRR@10\t0.500000\nq2\tRR@10\t1.000000\nq3\tRR@10\t0.000000\n"
           "all\tRR@10\t0.500000\n", text.stdout)

    expect("is judged" not in result.stderr, result.stderr)
    swapped = folder / "swapped.txt"
    swapped.write_text("q1 a Q0 1 3.0 t\nq2 c Q0 1 1.0 t\n")
    result = run("--qrels", qrels, "--run", swapped)
    expect(result.returncode == 0 and "none of the run's 2 documents is judged" in result.stderr,
           result.stderr)
    bad = folder / "bad.txt"
    bad.write_text("q1 Q0 a 1 1.0 t\nq1 Q0 b one\n")
    result = run("--qrels", qrels, "--run", bad)
    expect(result.returncode == 3 and "bad.txt:2" in result.stderr, result.stderr)
    bad.write_text("q1 Q0 a 1 1.0 t\nq1 Q0 a 2 0.5 t\n")
    result = run("--qrels", qrels, "--run", bad)
    expect(result.returncode == 3 and result.stdout == "", result.stderr)
    result = run("--qrels", qrels, "--run", ranking, "-m", "nDCG@0")
    expect(result.returncode == 2, result.stderr)
    for words, said in ((("--tune", qrels, "--alpha", "0.3"), "--alpha has no place beside --tune"),
                        (("--tune", qrels, "--output", bad), "--output has no place beside --tune"),
                        (("--measure", "RR@10", "--output", bad), "--measure is what --tune")):
        result = subprocess.run([PROGRAM, "fuse", "--run", str(ranking), "--with", str(ranking),
                                 *map(str, words)], capture_output=True, text=True, check=False)
        expect(result.returncode == 2 and said in result.stderr, result.stderr)


def golden():
    seen = 0
    for metrics in sorted(SHARED.glob("*/bm25.test.metrics.json")):
        folder = metrics.parent
        want = json.loads(metrics.read_text())
        names = sorted(want["aggregate"])
        result = run("--qrels", folder / "qrels/test.tsv", "--run", folder / "bm25.test.run", "-m",
                     ",".join(names), "--per-query", "-o", "json")
        expect(result.returncode == 0, result.stderr)
        got = json.loads(result.stdout)
        for name in names:
            # The golden numbers have six decimals.
            expect(abs(got[name] - want["aggregate"][name]) <= 0.5000001e-6,
                   f"{folder.name} {name}: {got[name]} {want['aggregate'][name]}")
            for query, values in want["per_query"].items():
                expect(abs(got["per_query"][query][name] - values[name]) <= 0.5000001e-6,
                       f"{folder.name} {query} {name}")
        seen += 1
    return seen


def main():
    with tempfile.TemporaryDirectory() as folder:
        by_hand(Path(folder))
    seen = golden()
    for failure in failures[:20]:
        print(failure)
    print(f"{seen} golden runs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
