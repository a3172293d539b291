#!/usr/bin/env python3
"""csplade train on a small collection: curves, repetition, folders, refusals, starts, data formats.
Arguments: the program, the source folder, names of tests (all)."""
import json
import shutil
import struct
import sys
from pathlib import Path

from workspace import read_events, run_tests

LAST = "contrastive-00000006.h5"
SHARED = Path(sys.argv[2]).parent / "shared/data"

# Losses of 20 steps of each phase, as this file's settings gave them on an x86-64 machine.
CURVES = {
    "adapt": [
        11.5550187, 11.5498012, 11.5415693, 11.491164, 11.4514483, 11.4087427, 11.4052503,
        11.325761, 11.264987, 11.1976908, 11.1843167, 11.162061, 11.1365985, 11.0726594,
        11.0634411, 11.0821139, 11.0996584, 11.082835, 11.084312, 11.0834197,
    ],
    "contrastive": [
        2.79189293, 2.71897723, 2.7075268, 2.69173353, 2.7010133, 2.64297105, 2.73285363,
        2.59101062, 2.61678069, 2.47731646, 2.37427193, 2.46247065, 2.41921004, 2.65363868,
        2.22182462, 2.32215926, 2.3810063, 2.47145864, 2.25067491, 2.50913553,
    ],
}
# Sums in f32 are ordered differently by other processors and numbers of threads, and AdamW turns a
# rounding near 0 into a whole step. Runs with 1 to 4 threads and OpenBLAS kernels of five processors
# were apart by this much relative to the loss (1e-8 for adapt, of nine digits printed, taken as
# 1e-7); ten times that is allowed. A wrong schedule, seed, mask or gradient moves it by percents.
SPREAD = {"adapt": 1e-7, "contrastive": 1.4e-4}


def a_run_repeats_its_stored_curve(w):
    w.expect_exit(w.train("curve", "adapt.max_steps=20", "contrastive.max_steps=20",
                          "optim.learning_rate=1e-3"), 0)
    for phase, want in CURVES.items():
        got = [row["loss"] for row in w.metrics("curve") if row["phase"] == phase]
        apart = max((abs(a - b) / abs(b) for a, b in zip(got, want)), default=1.0)
        w.expect(len(got) == len(want) and apart <= 10 * SPREAD[phase],
                 f"{phase}: apart by {apart}\n{json.dumps(got)}")
    w.remove("curve")


def the_same_run_gives_the_same_bytes(w):
    w.expect_exit(w.train("a"), 0)
    w.expect_exit(w.train("b", "batch.recompute=true"), 0)
    names = ["adapt-00000004.h5", "contrastive-00000002.h5", "contrastive-00000004.h5", LAST]
    w.expect(w.checkpoints("a") == names[1:], w.checkpoints("a"))
    w.expect(w.checkpoint("a", LAST) == w.checkpoint("b", LAST), "recomputing changed a bit")
    w.expect((w.folder / "a/checkpoints/LATEST").read_text() == LAST, "LATEST")
    w.expect(w.steps("a") == [("adapt", i) for i in range(1, 5)] +
             [("contrastive", i) for i in range(1, 7)], w.steps("a"))
    result = w.train("a")
    w.expect_exit(result, 0)
    w.expect(result.stdout == f"model a/checkpoints/{LAST}\n", result.stdout)
    w.expect(w.checkpoint("a", LAST) == w.checkpoint("b", LAST), "a finished run was changed")
    w.expect(len(w.steps("a")) == 10, "a finished run lost its metrics")
    w.remove("b")


def the_other_outputs_are_there(w):
    rows = [row for row in w.metrics("a") if row["phase"] == "contrastive"]
    w.expect(all(row["clm"] is None and row["nce"] > 0 for row in rows), rows)
    w.expect(rows[0]["lr"] == 0 and rows[1]["lr"] == 0.002, [row["lr"] for row in rows])
    # A quadratic ramp over a third of six steps: 0, a quarter, all.
    w.expect([row["lambda_d"] for row in rows[:3]] == [0, 0.00025, 0.001], rows)
    events = [e for p in sorted((w.folder / "a").glob("events.out.*")) for e in read_events(p)]
    losses = [(step, tag) for step, tag, _ in events if tag.endswith("/loss")]
    w.expect(losses == [(i, "adapt/loss") for i in range(1, 5)] +
             [(i, "contrastive/loss") for i in range(5, 11)], losses)
    written = {(step, tag): value for step, tag, value in events}
    w.expect(abs(written[(5, "contrastive/loss")] - rows[0]["loss"]) < 1e-5, "a value of an event")
    # mfu is the needed arithmetic by the rate that was measured once and said once.
    ceilings = {row["matmul_gflop_per_s"] for row in w.metrics("a")}
    w.expect(len(ceilings) == 1 and min(ceilings) > 0, ceilings)
    w.expect(all(abs(row["mfu"] - row["gflop_per_s"] / row["matmul_gflop_per_s"]) < 1e-6 * row["mfu"]
                 and row["gflop_per_s"] > 0 for row in w.metrics("a")), "mfu")
    config = (w.folder / "a/config.yaml").read_text()
    w.expect("max_steps: 6" in config and "config.yaml:" in config and "--set" in config, config)
    info = w.run("info", f"a/checkpoints/{LAST}").stdout
    w.expect("contrastive, 6 steps done" in info and '"variant": "causal"' in info, info)


def evaluations_choose_and_keep_the_best(w):
    settings = ["data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=1", "run.save_steps=0",
                "run.save_total_limit=1", "run.metric_for_best=RR@10", "optim.learning_rate=1e-2"]
    result = w.expect_exit(w.train("e", *settings), 0)
    rows = [row for row in w.metrics("e") if "eval/RR@10" in row]
    w.expect([(r["phase"], r["step"]) for r in rows] == w.steps("e"), rows)
    best = max(rows, key=lambda row: row["eval/RR@10"])
    name = f"{best['phase']}-{best['step']:08d}.h5"
    w.expect(f"best e/checkpoints/{name} RR@10 {best['eval/RR@10']:.6f}" in result.stdout,
             result.stdout + name)
    w.expect(w.checkpoints("e") == sorted({name, LAST}), w.checkpoints("e"))
    # The value is that of the program's own encode, search and eval of the whole corpus.
    model = f"e/checkpoints/{name}"
    w.must("encode", "-m", model, "-i", "beir", "-o", "d.h5")
    w.must("encode", "-m", model, "-i", "beir", "--side", "query", "-o", "q.h5")
    w.must("search", "--index", "d.h5", "--queries", "q.h5", "--output", "run.txt")
    out = w.must("eval", "--qrels", "beir/qrels/dev.tsv", "--run", "run.txt", "-o", "json").stdout
    w.expect(f"{best['eval/RR@10']:.4f}" in out or str(best["eval/RR@10"])[:8] in out, out)
    # compare: that evaluation, what the settings differ in, and sums over the run's steps.
    table = w.must("compare", "e", "first=a/", "model", "-m", "RR@10", "-o", "json")
    rows = [json.loads(line) for line in table.stdout.splitlines()]
    w.expect("model: left out" in table.stderr and [row["run"] for row in rows] == ["e", "first"], table.stderr)
    w.expect(rows[0]["settings"] == {"data.dev_qrels": "beir/qrels/dev.tsv", "optim.learning_rate": "0.01"},
             rows[0])
    steps = [row for row in w.metrics("e") if "loss" in row]
    w.expect((rows[0]["phase"], rows[0]["step"]) == (best["phase"], best["step"]), rows[0])
    for key in ("nDCG@10", "RR@10", "R@100", "AP", "active_q", "active_d"):
        w.expect(abs(rows[0][key] - best[f"eval/{key}"]) <= 1e-6 * abs(rows[0][key]), f"{key} {rows[0]}")
    w.expect(rows[0]["steps"] == 10 and rows[0]["tokens"] == sum(row["tokens"] for row in steps), rows[0])
    w.expect(rows[1]["nDCG@10"] is None and rows[1]["step"] == 6 and
             rows[1]["index_flops"] == w.metrics("a")[-1]["index_flops"], rows[1])
    cells = [line.split("\t") for line in w.must("compare", "e", "a", "-o", "tsv").stdout.splitlines()]
    w.expect(len(cells) == 3 and len({len(row) for row in cells}) == 1 and cells[0][:5] ==
             ["run", "phase", "step", "data.dev_qrels", "optim.learning_rate"], cells)
    (w.folder / "lr=1e-2").symlink_to("e")  # a folder's name, not a name for a folder
    said = w.must("compare", "lr=1e-2", "b=lr=1e-2", "-o", "tsv").stdout.splitlines()
    w.expect([line.split("\t")[0] for line in said] == ["run", "lr=1e-2", "b"], said)
    (w.folder / "lr=1e-2").unlink()
    w.expect_exit(w.run("compare", "model"), 1, "none of these is the folder of a run")
    # Another metric cannot be compared with the best so far.
    (w.folder / "e/checkpoints" / LAST).unlink()
    again = [s for s in settings if "metric" not in s] + ["run.metric_for_best=AP"]
    result = w.train("e", *again)
    w.expect_exit(result, 0, "was RR@10 and is AP now", "damaged")
    w.expect(" AP " in result.stdout, result.stdout)
    # Of some queries: the same whatever the order of judgements, most of which then are of others.
    judged = (w.folder / "beir/qrels/dev.tsv").read_text().splitlines()
    (w.folder / "backwards.tsv").write_text("\n".join([judged[0], *judged[:0:-1]]) + "\n")
    found = []
    for qrels in ("beir/qrels/dev.tsv", "backwards.tsv"):
        w.must("train", "config.yaml", "run.output_dir=f", f"data.dev_qrels={qrels}", "run.eval_steps=6",
               "eval.queries=3", "run.phases=[contrastive]")
        found.append([row for row in w.metrics("f") if "eval/RR@10" in row])
        w.remove("f")
    w.expect(found[0] == found[1] and len(found[0]) == 1, found)
    w.remove("e")


def a_dry_run_writes_nothing(w):
    before = sorted(str(p) for p in w.folder.rglob("*"))
    result = w.expect_exit(w.train("dry", "--dry-run"), 0, "8 texts", "8 queries of", "16 documents")
    w.expect(result.stdout == "" and before == sorted(str(p) for p in w.folder.rglob("*")), "files")
    w.expect_exit(w.train("dry", "--dry-run", "data.corpus=none"), 1, "none: there is no such")
    # What is filled in where the data gives less than the settings ask for is said.
    asked = w.expect_exit(w.train("dry", "--dry-run", "contrastive.batch.queries=100"), 0,
                          "80 of 80 queries have fewer negatives than the 1", "drawn at random",
                          "contrastive.batch.queries is 100, but there are 80 queries")
    w.expect(asked.stderr.count(", documents: 100, ") == 1, asked.stderr)
    w.expect_exit(w.train("dry", "--dry-run", "data.dev_qrels=beir/qrels/dev.tsv"), 0, "run.eval_steps is 0")
    w.expect_exit(w.train("dry", "--dry-run", "data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=1",
                          "eval.top_k=5"), 0, "eval.top_k is 5: R@100")
    # No step of this run reads the text that is too long: it is refused all the same.
    strict = ["data.strict=true", "model.query_max_len=60", "model.passage_max_len=60", "data.corpus=long",
              "run.phases=[contrastive]", "contrastive.max_steps=1", "contrastive.batch.queries=2"]
    shutil.copytree(w.folder / "beir", w.folder / "long")
    w.expect_exit(w.train("dry", "--dry-run", *strict), 0)
    with (w.folder / "long/corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "longest", "text": "word " * 80}) + "\n")
    w.expect_exit(w.train("dry", "--dry-run", *strict), 3, '"longest" has', "data.strict forbids")
    w.remove("long")
    qrels = w.folder / "beir/qrels/joins.tsv"
    qrels.write_text("q1\td1\t1\nq2\tnone\t1\n")
    short = w.expect_exit(w.train("dry", "--dry-run", "data.qrels=beir/qrels/joins.tsv"), 0, "(none)")
    w.expect(short.stderr.count(", documents: 100, ") == 1, short.stderr)
    qrels.unlink()


def another_config_or_data_is_refused(w):
    w.expect_exit(w.train("a", "contrastive.lambda_q=5e-3"), 2,
                  "contrastive.lambda_q is 0.001 there and 0.005 here", LAST, "as model.path")
    w.expect_exit(w.train("a", "--resume", "none"), 2, "has checkpoints of an earlier run")
    w.expect_exit(w.train("a", "--resume", "a/none.h5"), 1, "a/none.h5")
    w.expect_exit(w.train("a", "--resume", "beir/corpus.jsonl"), 3, "beir/corpus.jsonl")
    w.expect_exit(w.train("a", "lora.r=4"), 2, "lora")
    # What every checkpoint would record, found before the first step and not at the first save.
    w.expect_exit(w.train("b", "model.query_prefix=\udcff"), 2, 'query_prefix "?" is not valid UTF-8')
    latin = w.folder / "m\udcff"
    shutil.copytree(w.folder / "model", latin)
    w.expect_exit(w.train("b", "model.path=m\udcff", "lora.r=4"), 2, "m?: the path of a base model")
    w.expect(not (w.folder / "b").exists() or not list((w.folder / "b").glob("checkpoints/*")), "b")
    shutil.rmtree(latin)
    shutil.copytree(w.folder / "model", w.folder / "model2")
    w.expect_exit(w.train("a", "model.path=model2"), 2, "model.path")
    w.remove("model2")
    corpus = w.folder / "beir/corpus.jsonl"
    text = corpus.read_text()
    corpus.write_text(text + '{"_id": "more", "text": "more"}\n')
    w.expect_exit(w.train("a"), 3, "other data", "100 documents", "101")
    corpus.write_text(text)
    w.expect_exit(w.train("x", "model.exclude_ids=[3, 320]"), 2, "model.exclude_ids", "320")
    w.expect_exit(w.train("x", "model.passage_max_len=70"), 2, "70")
    w.expect_exit(w.train("x", "model.path=none"), 1, "none: cannot open: there is no such file or folder")
    w.expect_exit(w.train("x", "model.path=a"), 1, "a run's folder", "a/checkpoints/contrastive-00000006.h5")
    w.expect_exit(w.train("x", "model.path=beir"), 1, "beir: holds no config.json")
    w.expect_exit(w.run("encode", "-m", "a", "-i", "beir", "-o", "x.h5"), 1, "a run's folder")
    w.expect_exit(w.run("info", "a"), 1, "a run's folder")
    w.expect_exit(w.train("x", "device.precision=bf16"), 5, "bf16")
    w.expect_exit(w.train("x", "model.append_eos=true", "--dry-run"), 0)
    w.remove("x")


def spoil_adapter(path):
    """A of every adapter becomes 1e30 and B 0: a finite model whose gradient of B is not."""
    raw = bytearray(path.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    for name, tensor in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        value = 1e30 if "lora_A" in name else 0.0
        first, last = (8 + size + offset for offset in tensor["data_offsets"])
        raw[first:last] = struct.pack("<f", value) * ((last - first) // 4)
    path.write_bytes(raw)


def gradients_that_are_not_finite_skip_steps(w):
    lora = ["lora.r=4", "lora.alpha=1e6", "lora.dropout=0", "run.phases=[adapt]"]
    w.expect_exit(w.train("first", *lora, "adapt.max_steps=1"), 0)
    w.must("export", "--format", "peft", "--model", "first/checkpoints/adapt-00000001.h5", "--output",
           "adapter")
    spoil_adapter(w.folder / "adapter/adapter_model.safetensors")
    lora += ["lora.init=adapter", "run.save_steps=1", "adapt.lambda_relu=1e6"]
    said = "lora_B.weight is not finite"
    w.expect_exit(w.train("skip", *lora, "run.max_skipped_steps=2"), 4, f"{said}, step skipped, 2 in a row "
                  "of at most 2", f"{said}, in 3 steps in a row", "adapt step 3")
    steps = [json.loads(line) for line in (w.folder / "skip/metrics.jsonl").read_text().splitlines()]
    w.expect([m["skipped"] for m in steps] == [1, 1] and steps[1]["grad_norm"] is None, steps)
    w.expect(w.checkpoints("skip") == ["adapt-00000001.h5", "adapt-00000002.h5"],
             "the last good checkpoint is not kept")
    # The checkpoint remembers how many it were; a higher limit goes on.
    w.expect_exit(w.train("skip", *lora, "run.max_skipped_steps=2"), 4, "in 3 steps in a row")
    w.expect_exit(w.train("skip", *lora, "run.max_skipped_steps=4"), 0, "step skipped, 4 in a row of")
    w.expect_exit(w.train("none", *lora, "run.max_skipped_steps=0"), 4, "in 1 steps in a row")
    for name in ("first", "adapter", "skip", "none"):
        w.remove(name)


def adapters_know_their_base(w):
    w.expect_exit(w.train("l", "lora.r=4", "lora.dropout=0.2", "--set", "model.path=base"), 1, "base")
    shutil.copytree(w.folder / "model", w.folder / "base")
    lora = ["lora.r=4", "lora.dropout=0.2", "model.path=base"]
    w.expect_exit(w.train("l", *lora), 0)
    w.must("init", "--tokenizer", "tok", "--hidden", 32, "--layers", 2, "--heads", 2, "--seed", 1,
           "--max-position", 64, "--output", "other")
    shutil.copy(w.folder / "other/model.safetensors", w.folder / "base/model.safetensors")
    model = f"l/checkpoints/{LAST}"
    w.expect_exit(w.train("l", *lora), 3, "belongs to a base model with hash", "base has")
    w.expect_exit(w.run("encode", "-m", model, "-i", "beir", "-o", "x.h5"), 3, "base model")
    w.expect_exit(w.run("encode", "-m", model, "--base", "model", "-i", "beir", "-o", "x.h5"), 0)
    w.remove("base", "other")


def an_adapter_may_be_merged_between_phases(w):
    lora = ["lora.r=4", "lora.between_phases=merge", "run.save_total_limit=9"]
    w.expect_exit(w.train("m", *lora), 0, "merged into m/merged-adapt")
    # Killed between the phases: the merge is done again, to the same bits.
    shutil.copytree(w.folder / "m", w.folder / "n")
    for path in (w.folder / "n/checkpoints").glob("contrastive-*"):
        path.unlink()
    (w.folder / "n/checkpoints/LATEST").write_text("adapt-00000004.h5")
    w.expect_exit(w.train("n", *lora), 0, "going on from n/checkpoints/adapt-00000004.h5", "merged")
    w.expect(w.checkpoint("m", LAST) == w.checkpoint("n", LAST), "merging does not repeat")
    # Within the second phase its base is the merged one.
    (w.folder / "n/checkpoints" / LAST).unlink()
    w.expect_exit(w.train("n", *lora), 0, "going on from n/checkpoints/contrastive-00000004.h5")
    w.expect(w.checkpoint("m", LAST) == w.checkpoint("n", LAST), "resuming over a merged base")
    # The run moves as a whole; its base is found beside it, and is a model of its own.
    (w.folder / "m").rename(w.folder / "moved")
    w.expect_exit(w.run("encode", "-m", f"moved/checkpoints/{LAST}", "-i", "beir", "-o", "x.h5"), 0)
    w.expect_exit(w.run("encode", "-m", "moved/merged-adapt", "-i", "beir", "-o", "y.h5"), 0)
    # Another run goes on with that adapter, and finds its base from there.
    settings = ["lora.r=4", f"model.path=moved/checkpoints/{LAST}", "run.phases=[contrastive]"]
    w.expect_exit(w.train("o", *settings), 0)
    w.expect_exit(w.run("encode", "-m", f"o/checkpoints/{LAST}", "-i", "beir", "-o", "x.h5"), 0)
    w.remove("moved", "n", "o")


def a_peft_adapter_is_a_start(w):
    w.must("export", "--model", f"l/checkpoints/{LAST}", "--base", "model", "--format", "peft",
           "--output", "peft")
    only = ["run.phases=[contrastive]", "lora.init=peft"]
    w.expect_exit(w.train("p", *only, "lora.r=4"), 0)
    w.expect_exit(w.train("s", only[0], "lora.r=4"), 0)
    w.expect(w.metrics("p")[0]["nce"] < w.metrics("s")[0]["nce"], "the adapter was not taken")
    w.expect_exit(w.train("q", *only, "lora.r=8"), 2, "r 4", "r 8")
    w.expect_exit(w.train("q", only[0], "lora.r=4", f"lora.init=l/checkpoints/{LAST}"), 2, "as model.path")
    w.expect_exit(w.run("encode", "-m", "peft", "-i", "beir", "-o", "x.h5"), 1, "peft: a PEFT adapter", "lora.init")
    w.expect_exit(w.train("q", only[0], "lora.r=4", "lora.init=model"), 1, "adapter_config.json")
    w.remove("p", "q", "s", "peft")


def a_checkpoint_is_a_start(w):
    only = "run.phases=[contrastive]"
    full, adapter = f"model.path=a/checkpoints/{LAST}", f"model.path=l/checkpoints/{LAST}"
    w.expect_exit(w.train("s", full, only), 0)
    first = next(row for row in w.metrics("s"))
    w.expect(first["nce"] < w.metrics("a")[4]["nce"], "the trained weights were not taken")
    w.expect_exit(w.run("estimate", "config.yaml", full, only), 0)
    # New adapters over whole weights; their checkpoint finds that base.
    w.expect_exit(w.train("t", full, only, "lora.r=4"), 0)
    w.expect_exit(w.run("encode", "-m", f"t/checkpoints/{LAST}", "-i", "beir", "-o", "x.h5"), 0)
    w.expect_exit(w.train("t", full, only, "lora.r=4"), 0, "going on from", "steps are done")
    w.expect_exit(w.train("u", adapter, only), 2, "holds an adapter")
    w.expect_exit(w.train("u", adapter, only, "lora.r=8"), 2, "r 4 and scale 8, lora r 8")
    w.expect_exit(w.train("u", adapter, only, "lora.r=4", "lora.target_modules=[q_proj]"), 2,
                  "lora.target_modules")
    w.expect_exit(w.train("u", full, only, "lora.r=4", "lora.init=x"), 2, "lora.init")
    other = w.train("v", full, only, "model.passage_prefix=p")
    w.expect_exit(other, 0, "another contract", "passage_prefix")
    w.expect_exit(w.run("export", "--model", f"l/checkpoints/{LAST}", "--base", "model", "--format",
                        "hf", "--output", "hf"), 0)
    same = w.train("w", "model.path=hf", "--dry-run")
    w.expect_exit(same, 0)
    w.expect("contract" not in same.stderr, same.stderr)
    w.expect_exit(w.train("w", "model.path=hf", "model.passage_prefix=p", "--dry-run"), 0,
                  "hf was trained under another contract", "passage_prefix")
    w.remove("s", "t", "u", "v", "hf", "l")


def every_way_to_see_and_pool_trains(w):
    w.must("tokenize", "--train", "--vocab-size", 320, "--add-bos", "--output", "tokb", "text.txt")
    w.must("init", "--tokenizer", "tokb", "--hidden", 32, "--layers", 1, "--heads", 4, "--kv-heads", 2,
           "--family", "qwen3", "--untied", "--max-position", 64, "--output", "special")
    tokenizer = json.loads((w.folder / "tokb/tokenizer.json").read_text())
    ends = [token["id"] for token in tokenizer["added_tokens"]]
    w.expect(len(ends) == 2, ends)
    cases = [
        ["model.variant=echo"],
        ["model.variant=bi", "contrastive.regularizer=l1"],
        ["model.pooling=sum", "contrastive.temperature=100"],
        ["model.path=special", "model.add_bos=true", "model.append_eos=true", "model.variant=echo"],
        ["model.path=special", "lora.r=2", "model.variant=bi", "model.exclude_ids=[1, 2]",
         "model.logit_scale=0.5"],
        ["model.path=special", "model.append_eos=true", "model.add_bos=true",
         f"model.exclude_ids={ends}"],
        ["adapt.batch.micro_batch_tokens=30", "contrastive.batch.micro_batch_tokens=20"],
        ["data.shuffle=false", "contrastive.mask_known_positives=false", "optim.weight_decay=0.1",
         "optim.lr_scheduler_type=linear", "optim.max_grad_norm=0"],
    ]
    for settings in cases:
        result = w.train("v", *settings, "contrastive.max_steps=3", "adapt.max_steps=2")
        w.expect_exit(result, 0)
        if result.returncode == 0:
            w.expect(all(row["loss"] > 0 for row in w.metrics("v")), settings)
        w.remove("v")
    w.expect_exit(w.train("v", "data.strict=true"), 3, "data.strict forbids")
    w.remove("v", "special", "tokb")


def every_format_trains(w):
    docs = [json.loads(line) for line in (w.folder / "beir/corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (w.folder / "beir/queries.jsonl").read_text().splitlines()]
    pairs = list(zip(queries, docs, docs[1:] + docs[:1]))

    def passage(d):
        return {"docid": d["_id"], "title": d["title"], "text": d["text"]}

    with (w.folder / "inside.jsonl").open("w") as stream:
        for q, p, n in pairs:
            stream.write(json.dumps({"query_id": q["_id"], "query": q["text"], "positive_passages":
                                     [passage(p)], "negative_passages": [passage(n)]}) + "\n")
    with (w.folder / "ids.jsonl").open("w") as stream:
        for q, p, n in pairs:
            stream.write(json.dumps({"query_id": q["_id"], "query_text": q["text"],
                                     "positive_document_ids": [p["_id"]],
                                     "negative_document_ids": [n["_id"]]}) + "\n")
    (w.folder / "triples.tsv").write_text("".join(
        f"{q['_id']}\t{p['_id']}\t{n['_id']}\n" for q, p, n in pairs))
    (w.folder / "collection.tsv").write_text("".join(f"{d['_id']}\t{d['text']}\n" for d in docs))
    (w.folder / "queries.tsv").write_text("".join(f"{q['_id']}\t{q['text']}\n" for q in queries))
    qrels = "data.qrels=null"
    cases = [
        ["data.train=inside.jsonl", "data.corpus=null", qrels],
        ["data.train=ids.jsonl", "data.corpus=beir", qrels],
        ["data.train=triples.tsv", "data.corpus=collection.tsv", "data.queries=queries.tsv", qrels],
        ["data.corpus=collection.tsv", "data.queries=queries.tsv"],
    ]
    for settings in cases:
        w.expect_exit(w.train("f", *settings, "contrastive.max_steps=2", "run.phases=[contrastive]"),
                      0, "queries to train on")
        w.remove("f")
    text = (w.folder / "ids.jsonl").read_text().splitlines()
    (w.folder / "ids.jsonl").write_text("\n".join(text[:7] + [text[7][:-9]] + text[8:]))
    w.expect_exit(w.train("f", *cases[1], "run.phases=[contrastive]"), 3, "ids.jsonl:8")
    w.remove("f")


def estimate_refuses_what_does_not_fit(w):
    shape = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
             "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
             "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
             "hidden_act": "silu", "bos_token_id": 128000, "eos_token_id": 128001}
    (w.folder / "8b.json").write_text(json.dumps(shape))
    result = w.run("estimate", "config.yaml", "--model-config", "8b.json", "-o", "json")
    numbers = json.loads(result.stdout)
    w.expect(numbers["parameters"] == 8030261248, numbers["parameters"])
    w.expect(numbers["weights_bytes"] == 4 * 8030261248, numbers)
    w.expect(numbers["moment_bytes"] == 2 * numbers["gradient_bytes"] == 8 * 8030261248, numbers)
    if numbers["available_bytes"] < 16 * 8030261248:
        w.expect_exit(result, 5, "needs at least")
    # What cannot be allocated is refused before it is, also by train.
    (w.folder / "huge").mkdir()
    shutil.copy(w.folder / "8b.json", w.folder / "huge/config.json")
    shutil.copy(w.folder / "tok/tokenizer.json", w.folder / "huge/tokenizer.json")
    w.expect_exit(w.train("h", "model.path=huge"), 5 if numbers["available_bytes"] <
                  16 * 8030261248 else 1, "")
    lora = json.loads(w.run("estimate", "config.yaml", "lora.r=16", "--model-config", "8b.json", "-o",
                            "json").stdout)
    # r (in + out) of q, k, v, o, gate, up, down in each of 32 layers.
    each = 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    w.expect(lora["trained"] == 32 * each, lora["trained"])
    w.expect_exit(w.run("estimate", "config.yaml"), 0, "")
    # One of 8 ranks of full fine-tuning in bf16: an eighth of masters and moments, all the rest.
    words = ["estimate", "config.yaml", "device.name=auto", "--model-config", "8b.json", "--memory", "141GB",
             "-o", "json"]
    alone = json.loads(w.run(*words).stdout)
    whole = json.loads(w.run(*words, "--ranks", 8, "run.shard_state=off").stdout)
    part = json.loads(w.run(*words, "--ranks", 8).stdout)
    w.expect(alone["state_shards"] == whole["state_shards"] == 1 and part["state_shards"] == 8, part)
    for key in ("weights_bytes", "gradient_bytes"):
        w.expect(0 <= part[key] - whole[key] <= 40 * 8 * 128, (key, part[key], whole[key]))
    for key in ("master_bytes", "moment_bytes"):
        w.expect(whole[key] == alone[key] > 0, key)
        w.expect(abs(part[key] - whole[key] / 8) <= 40 * 256, (key, part[key], whole[key]))
    # Each copies its state for checkpoints, rank 0 the weights too; alone it is masters and moments.
    rounded = 3 * (9 * 32 + 3) * 256
    state = part["master_bytes"] + part["moment_bytes"]
    w.expect(abs(part["state_copy_bytes"] - state) <= rounded and whole["state_copy_bytes"] == 0, part)
    w.expect(abs(part["checkpoint_copy_bytes"] - state - part["weights_bytes"]) <= rounded, part)
    w.expect(abs(whole["checkpoint_copy_bytes"] - whole["master_bytes"] - whole["moment_bytes"]) <= rounded,
             whole)
    w.expect_exit(w.run(*words, "--ranks", 3), 2, "contrastive.batch.queries is 8", "3 ranks")
    text = w.run(*words[:-2], "--ranks", 8).stdout
    w.expect("part of 8" in text and "on other ranks" in text, "the text does not say so")
    w.remove("h", "huge")


def estimate_plans_for_a_named_memory(w):
    """The forms of micro-batches from much memory to too little, without a GPU."""
    shape = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
             "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
             "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
             "hidden_act": "silu", "bos_token_id": 128000, "eos_token_id": 128001}
    (w.folder / "1b.json").write_text(json.dumps(shape))
    words = ["estimate", "config.yaml", "lora.r=16", "--model-config", "1b.json", "-o", "json",
             "device.name=auto", "device.precision=bf16", "batch.micro_batch_tokens=16384", "run.phases=[contrastive]",
             "contrastive.batch.queries=64", "data.train_group_size=16"]
    keeps = {}
    for size in (80, 20, 15, 11, 8):
        result = w.run(*words, "--memory", f"{size}GB")
        numbers = json.loads(result.stdout)
        phase, = numbers["phases"]
        keeps[size] = phase["keep"], result.returncode
        # 1.24e9 weights in 2 bytes, with room for the adapters beside and below the matrices; adapters have
        # masters, gradients and two moments.
        w.expect(2 * numbers["parameters"] < numbers["weights_bytes"] < 2.06 * numbers["parameters"], numbers)
        w.expect(numbers["master_bytes"] == numbers["gradient_bytes"] == 4 * numbers["trained"], numbers)
        # 16 bytes for every term of 64 queries and 1,024 documents.
        w.expect(16 * 1088 * 128256 <= phase["sparse_bytes"] < 1.01 * 16 * 1088 * 128256, phase)
        others = numbers["weights_bytes"] + phase["sparse_bytes"] + phase["scratch_bytes"]
        w.expect(result.returncode != 0 or
                 others + phase["budget_bytes"] <= numbers["available_bytes"] == size * 10**9, numbers)
    w.expect(keeps[80] == ("all activations", 0) and keeps[8][1] == 5 and
             {"all activations but gate and up", "inputs of blocks only"} <= {k for k, _ in keeps.values()},
             keeps)
    # cuSPARSE has memory of its own, where it is named.
    ours, theirs = (json.loads(w.run(*words, f"device.head_backward={way}", "--memory", "80GB").stdout)["phases"][0]
                    for way in ("lists", "cusparse"))
    w.expect(theirs["scratch_bytes"] - ours["scratch_bytes"] == 256 << 20, theirs)
    # In 8 bits: a byte for each number of a block's matrices, 4 for each output, and 1 MiB that uploads pass through.
    fp8 = json.loads(w.run(*words, "lora.base_precision=fp8", "--memory", "80GB").stdout)
    matrices, outputs = 16 * (2048 * (2 * 2048 + 2 * 512) + 3 * 2048 * 8192), 16 * (2 * 2048 + 2 * 512 + 2 * 8192 + 2048)
    w.expect(fp8["base_precision"] == "fp8" and numbers["base_precision"] == "same" and fp8["weights_bytes"] ==
             2 * fp8["parameters"] - matrices + 4 * outputs + 2**20, fp8)
    w.expect_exit(w.run(*words, "--memory", "8GB"), 5, "phase contrastive: ", "are free: ",
                  "contrastive.batch.micro_batch_tokens=", "would fit")
    w.expect_exit(w.run(*words, "--memory", "2GB"), 5, "this run needs at least")
    w.expect_exit(w.run(*words, "--memory", "80"), 2, "a number with GB")
    w.expect_exit(w.run(*words, "--memory", "80GB", "--device", "cpu", "device.precision=fp32"), 2,
                  "device.name is cpu")


def real_collections_train_without_special_care(w):
    for name, split in (("cranfield", "dev"), ("scifact", "test")):
        source = SHARED / name
        if not source.is_dir():
            print(f"skipped: no {name}")
            continue
        w.must("tokenize", "--train", "--vocab-size", 400, "--output", "rt", source / "queries.jsonl")
        w.must("init", "--tokenizer", "rt", "--hidden", 32, "--layers", 1, "--heads", 2, "--output",
               "rm")
        result = w.train("r", "model.path=rm", f"data.corpus={source}", "data.text=[]",
                         f"data.qrels={source}/qrels/train.tsv", "adapt.max_steps=2",
                         f"data.dev_qrels={source}/qrels/{split}.tsv", "contrastive.max_steps=2",
                         "run.eval_steps=2", "eval.pool=50", "eval.queries=20")
        w.expect_exit(result, 0, "queries to train on", "nDCG@10")
        w.remove("r", "rt", "rm")


if __name__ == "__main__":
    sys.exit(run_tests([
        a_run_repeats_its_stored_curve,
        the_same_run_gives_the_same_bytes,
        the_other_outputs_are_there,
        evaluations_choose_and_keep_the_best,
        a_dry_run_writes_nothing,
        another_config_or_data_is_refused,
        gradients_that_are_not_finite_skip_steps,
        adapters_know_their_base,
        an_adapter_may_be_merged_between_phases,
        a_peft_adapter_is_a_start,
        a_checkpoint_is_a_start,
        every_way_to_see_and_pool_trains,
        every_format_trains,
        estimate_refuses_what_does_not_fit,
        estimate_plans_for_a_named_memory,
        real_collections_train_without_special_care,
    ]))
