#!/usr/bin/env python3
"""What csplade train looks at before it goes on from a checkpoint.
Arguments: the program, the source folder, names of tests (all)."""
import json
import shutil
import sys

from workspace import run_tests

LAST = "contrastive-00000006.h5"
MIDDLE = "contrastive-00000002.h5"
TIMES = {"tokens_per_s", "gflop_per_s", "matmul_gflop_per_s", "mfu", "peak_mb", "data_wait",
         "save_pause_s", "save_write_s", "elapsed_s"}


def back(w, name):
    """Takes a finished run back to the middle of its second phase."""
    folder = w.folder / name / "checkpoints"
    for path in folder.glob("contrastive-*.h5"):
        if path.name > MIDDLE:
            path.unlink()
    (folder / "LATEST").write_text(MIDDLE)


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
    # So it is in shards, which are read as one.
    lines = (w.folder / "beir/corpus.jsonl").read_text().splitlines(keepends=True)
    (w.folder / "beir/corpus.jsonl").rename(w.folder / "whole.jsonl")
    for i, (first, last) in enumerate(((0, 30), (30, 31), (31, 100))):
        (w.folder / f"beir/corpus-{i:05d}-of-00003.jsonl").write_text("".join(lines[first:last]))
    w.expect_exit(w.train("d", *settings), 0)
    w.expect_exit(w.train("e", *settings), 0)
    w.expect(w.checkpoint("e", LAST) == before, "other bytes from shards")
    (w.folder / "beir/corpus-00001-of-00003.jsonl").unlink()
    w.expect_exit(w.train("d", *settings), 1, "of 3 shards, corpus-00001-of-00003 is not there")
    for path in (w.folder / "beir").glob("corpus-*"):
        path.unlink()
    (w.folder / "whole.jsonl").rename(w.folder / "beir/corpus.jsonl")
    w.remove("d", "e")


def a_resumed_run_logs_the_same_numbers(w):
    """Bit for bit, all but times: also what is counted over the last 100 steps."""
    settings = ["run.phases=[contrastive]", "contrastive.max_steps=130", "run.save_steps=20",
                "run.save_total_limit=9", "data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=60"]
    w.expect_exit(w.train("m", *settings), 0)

    def logged():
        return [{k: v for k, v in row.items() if k not in TIMES} for row in w.metrics("m")]

    whole = logged()
    last = "contrastive-00000130.h5"
    checkpoint = w.checkpoint("m", last)
    w.expect(sum(row.get("dead_terms") is not None for row in whole) == 30, "dead terms of the run")
    for middle in ("contrastive-00000080.h5", "contrastive-00000120.h5"):
        folder = w.folder / "m/checkpoints"
        for path in folder.glob("*.h5"):
            if path.name > middle:
                path.unlink()
        (folder / "LATEST").write_text(middle)
        w.expect_exit(w.train("m", *settings), 0, f"going on from m/checkpoints/{middle}")
        again = logged()
        w.expect(again == whole, [(a, b) for a, b in zip(whole, again) if a != b][:1])
        w.expect(w.checkpoint("m", last) == checkpoint, "other bytes")
    w.remove("m")


def threads_beside_training_change_nothing(w):
    """Checkpoints written by a thread and steps made ready by one: the same bytes, lines and counts."""
    both = ["run.save_total_limit=99", "run.save_steps=1", "data.dev_qrels=beir/qrels/dev.tsv",
            "run.eval_steps=3"]
    for settings in ([], ["lora.r=4", "lora.dropout=0.2", "lora.between_phases=merge"]):
        found = {}
        for name, ways in (("off", ["run.async_save=off", "data.prefetch_factor=0"]),
                           ("on", ["run.async_save=on", "data.prefetch_factor=1"]),
                           ("far", ["data.prefetch_factor=50"])):
            result = w.expect_exit(w.train(name, *both, *settings, *ways), 0)
            beside = "checkpoints are written beside training" in result.stderr
            w.expect(beside == (name != "off"), f"{name}: {result.stderr}")
            said = [line.split("  ", 1)[1] for line in result.stderr.splitlines() if " tokens" in line
                    and " read, " in line or " adapted on, " in line]
            rows = w.metrics(name)
            w.expect(all(0 <= row["data_wait"] <= 1 for row in rows if "loss" in row), rows[0])
            w.expect(any(row.get("save_write_s") for row in rows) and
                     any(row.get("save_pause_s") for row in rows), "no times of checkpoints")
            found[name] = (said, [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
                           {file: w.checkpoint(name, file) for file in w.checkpoints(name)},
                           (w.folder / name / "checkpoints/LATEST").read_text())
            w.expect(len(found[name][2]) == 10 and len(said) == 3, f"{w.checkpoints(name)} {said}")
        w.expect(found["off"] == found["on"] == found["far"], [f[0:2] for f in found.values()])
        w.remove("off", "on", "far")


def a_base_that_moved_is_found_with_base(w):
    """A LoRA run stopped in the middle whose base goes elsewhere ends with the same weights."""
    shutil.copytree(w.folder / "model", w.folder / "base")
    lora = ["lora.r=4", "lora.dropout=0.2", "model.path=base", "run.save_total_limit=9"]
    w.expect_exit(w.train("l", *lora), 0)
    w.must("encode", "-m", f"l/checkpoints/{LAST}", "-i", "beir", "-o", "whole.jsonl")
    back(w, "l")
    (w.folder / "base").rename(w.folder / "elsewhere")
    w.expect_exit(w.train("l", *lora), 1, MIDDLE, "its base model base is not there", "--base")
    w.expect_exit(w.train("l", *lora, "--base", "nowhere"), 1, "nowhere")
    w.expect(not (w.folder / "l/checkpoints" / LAST).exists(), "a refused start wrote something")
    # Another model at that place is refused by its hash.
    w.must("init", "--tokenizer", "tok", "--hidden", 32, "--layers", 2, "--heads", 2, "--seed", 1,
           "--max-position", 64, "--output", "other")
    w.expect_exit(w.train("l", *lora, "--base", "other"), 3, "belongs to a base model with hash",
                  "other has")
    w.expect_exit(w.train("l", *lora, "--base", "elsewhere", "--dry-run"), 0)
    w.expect_exit(w.train("l", *lora, "--base", "elsewhere"), 0, "going on from")
    # The new checkpoints record where it is: neither going on nor encoding needs to be told again.
    w.must("encode", "-m", f"l/checkpoints/{LAST}", "-i", "beir", "-o", "moved.jsonl")
    whole, moved = ((w.folder / f"{name}.jsonl").read_text().splitlines()[1:]
                    for name in ("whole", "moved"))
    w.expect(whole == moved and len(whole) == 100, "another result than without the move")
    w.expect_exit(w.train("l", *lora), 0)
    # Where no adapter is opened the option has no meaning, and is no silent one.
    w.expect_exit(w.train("n", *lora, "model.path=elsewhere", "--base", "model"), 2,
                  "not with a LoRA checkpoint")
    encode = w.run("encode", "-m", "model", "--base", "elsewhere", "-i", "beir", "-o", "x.h5")
    w.expect_exit(encode, 2, "no base model")
    w.remove("l", "n", "elsewhere", "other")


def a_base_in_8_bits_is_rounded_again_to_the_same_bits(w):
    """Checkpoints hold adapters only; the base is read and rounded anew by whoever goes on."""
    fp8 = ["lora.r=4", "lora.dropout=0.2", "lora.base_precision=fp8", "run.save_total_limit=9"]
    w.expect_exit(w.train("e", *fp8), 0)
    checkpoint, whole = w.checkpoint("e", LAST), [row["loss"] for row in w.metrics("e")]
    back(w, "e")
    w.expect_exit(w.train("e", *fp8), 0, "going on from")
    w.expect(w.checkpoint("e", LAST) == checkpoint, "other bytes")
    w.expect_exit(w.train("s", "lora.r=4", "lora.dropout=0.2", "run.save_total_limit=9"), 0)
    same = [row["loss"] for row in w.metrics("s")]
    w.expect(whole != same and max(abs(a / b - 1) for a, b in zip(whole, same)) < 0.1,
             f"{whole} in 8 bits, {same} as it is")
    # The adapter is used over the base as it is: nothing of the checkpoint depends on how it was stored.
    w.must("encode", "-m", f"e/checkpoints/{LAST}", "-i", "beir", "-o", "e.jsonl")
    back(w, "e")
    w.expect_exit(w.train("e", *fp8, "lora.base_precision=same"), 2, "lora.base_precision")
    w.expect_exit(w.train("x", "lora.r=0", "lora.base_precision=fp8"), 2, "nothing is frozen")
    w.expect_exit(w.train("x", *fp8, "lora.between_phases=merge"), 2, "merge with csplade export")
    w.must("init", "--tokenizer", "tok", "--hidden", 24, "--layers", 1, "--heads", 2,
           "--max-position", 64, "--output", "odd")
    w.expect_exit(w.train("x", *fp8, "model.path=odd"), 5, "whole multiples of 16")
    w.remove("e", "s", "odd")


if __name__ == "__main__":
    sys.exit(run_tests([
        the_content_of_the_data_is_compared,
        a_resumed_run_logs_the_same_numbers,
        threads_beside_training_change_nothing,
        a_base_that_moved_is_found_with_base,
        a_base_in_8_bits_is_rounded_again_to_the_same_bits,
    ]))
