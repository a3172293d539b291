#!/usr/bin/env python3
"""What csplade train looks at before it goes on from a checkpoint.
Arguments: the program, the source folder, names of tests (all)."""
import json
import sys

from workspace import run_tests

LAST = "contrastive-00000006.h5"


def the_content_of_the_data_is_compared(w):
    """The same number of everything, other content: refused by the name of what changed."""
    w.expect_exit(w.train("d", "data.negatives=neg.tsv"), 1, "neg.tsv")
    (w.folder / "neg.tsv").write_text("q0\td7 d8\nq1\td9\n")
    settings = ["data.negatives=neg.tsv"]
    w.expect_exit(w.train("d", *settings), 0)
    before = w.checkpoint("d", LAST)
    cases = [
        ("beir/corpus.jsonl", "the documents", "data.corpus: beir"),
        ("beir/queries.jsonl", "the queries", "data.queries"),
        ("beir/qrels/train.tsv", "the judgements or negatives", "data.qrels: beir/qrels/train.tsv"),
        ("neg.tsv", "the judgements or negatives", "data.qrels"),
        ("text.txt", "the texts to adapt on", "data.text: text.txt"),
    ]
    for name, part, setting in cases:
        path = w.folder / name
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        if name.endswith("jsonl"):
            row = json.loads(lines[5])
            lines[5] = json.dumps({**row, "text": row["text"][::-1]}) + "\n"
        elif name == "text.txt":
            lines[5] = lines[5].rstrip("\n")[::-1] + "\n"
        else:
            lines[-1] = "q1\td10\n" if name == "neg.tsv" else "q79\td1\t1\n"
        path.write_text("".join(lines))
        w.expect_exit(w.train("d", *settings), 3, f"the content of {part}", setting, LAST)
        path.write_text(text)
    w.expect_exit(w.train("d", *settings), 0)
    w.expect(w.checkpoint("d", LAST) == before, "a finished run was changed")
    # The same content in another form of the file is the same data.
    path = w.folder / "text.txt"
    text = path.read_text()
    path.write_bytes(text.replace("\n", "\r\n").encode())
    w.expect_exit(w.train("d", *settings), 0)
    path.write_text(text)
    w.remove("d")


if __name__ == "__main__":
    sys.exit(run_tests([
        the_content_of_the_data_is_compared,
    ]))
