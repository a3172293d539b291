#!/usr/bin/env python3
"""csplade tokenize: training and reading back, bad input, and the shared tokenizers where present.
Arguments: the program, the source folder."""
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
SHARED = SOURCE.parent / "shared/data/tokenizers"
failures = []


def run(*words, text=""):
    data = text if isinstance(text, bytes) else text.encode()
    return subprocess.run([PROGRAM, "tokenize", *map(str, words)], input=data,
                          capture_output=True, check=False)


def expect(condition, what):
    if not condition:
        failures.append(what)


def training(folder):
    plain, lines = folder / "a.txt", folder / "b.jsonl.gz"
    plain.write_text("the cat sat on the mat\nthe hat of the cat\n" * 20)
    with gzip.open(lines, "wt") as stream:
        for i in range(20):
            stream.write(json.dumps({"_id": str(i), "title": "The", "text": "rat ate the cat"}) + "\n")
    result = run("--train", "--vocab-size", 280, "--lowercase", "--output", folder / "tok", plain,
                 lines)
    expect(result.returncode == 0 and b"from 60 texts" in result.stderr and result.stdout == b"",
           result.stderr)
    stored = json.loads((folder / "tok/tokenizer.json").read_text())
    expect(stored["model"]["type"] == "BPE", "tokenizer.json")
    result = run("-m", folder / "tok", text="THE cat\n\nx\n")
    ids = [json.loads(line) for line in result.stdout.splitlines()]
    expect(len(ids) == 3 and ids[1] == [] and all(0 <= i < 280 for i in ids[0]), result.stdout)
    expect(ids[0] == json.loads(run("-m", folder / "tok", text="the cat").stdout), "lower case")
    tokens = json.loads(run("-m", folder / "tok", "--tokens", text="the cat").stdout)
    expect(tokens == ["the", "\u0120cat"], tokens)
    again = folder / "again"
    run("--train", "--vocab-size", 280, "--lowercase", "--output", again, lines, plain)
    expect((again / "tokenizer.json").read_bytes() == (folder / "tok/tokenizer.json").read_bytes(),
           "the order of the files changes the tokenizer")
    result = run("-m", folder / "tok", text=b"good\nb\xff\n")
    expect(result.returncode == 3 and b":2: invalid UTF-8 at byte 2" in result.stderr,
           result.stderr)


def errors(folder):
    bad = folder / "bad/tokenizer.json"
    bad.parent.mkdir()
    bad.write_text('{"model": ')
    cases = [
        (["-m", "/nowhere"], 1, b"/nowhere"),
        (["-m", bad], 3, b"tokenizer.json"),
        ([], 2, b"--model PATH is required"),
        (["-m", "x", "--vocab-size", 300], 2, b"--vocab-size belongs to --train"),
        (["--train", "--vocab-size", 300], 2, b"needs --vocab-size N, --output DIR and FILES"),
        (["--train", "--vocab-size", 257, "-o", "x", "y"], 2, b"257 is not in 258.."),
        (["--train", "--model", "x", "--vocab-size", 300, "-o", "x", "y"], 2, b"neither --model"),
        (["--train", "--vocab-size", 300, "-o", folder / "t", "/nowhere.txt"], 1, b"/nowhere.txt"),
    ]
    for words, code, message in cases:
        result = run(*words)
        expect(result.returncode == code and message in result.stderr,
               f"{words}: {result.returncode} {result.stderr}")


def shared():
    seen = 0
    for vectors in sorted(SHARED.glob("*/vectors.jsonl")):
        rows = [json.loads(line) for line in vectors.read_text().splitlines()]
        rows = [r for r in rows if "\n" not in r["text"] and not r["text"].endswith("\r")]
        text = "".join(r["text"] + "\n" for r in rows)
        result = run("-m", vectors.parent / "tokenizer.json.gz", text=text)
        expect(result.returncode == 0, result.stderr)
        ids = [json.loads(line) for line in result.stdout.splitlines()]
        key = next(k for k in ("ids", "ids_no_special", "input_ids") if k in rows[0])
        wrong = [r["text"] for r, got in zip(rows, ids) if got != r[key]]
        expect(len(ids) == len(rows) and not wrong, f"{vectors.parent.name}: {wrong[:3]}")
        seen += len(rows)
    return seen


def main():
    with tempfile.TemporaryDirectory() as folder:
        training(Path(folder))
        errors(Path(folder))
    seen = shared()
    for failure in failures:
        print(failure)
    print(f"{seen} texts of shared tokenizers, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
