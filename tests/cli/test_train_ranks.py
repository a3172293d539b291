#!/usr/bin/env python3
"""csplade train on several ranks: the curve of one rank, checkpoints that know nothing of ranks, and
ends that all of them share. Arguments: the program, the source folder, names of tests (all)."""
import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

from ranks_job import Job, free_port, mpirun
from workspace import run_tests

LAST = "contrastive-00000006.h5"
TIMES = {"tokens_per_s", "gflop_per_s", "matmul_gflop_per_s", "mfu", "peak_mb", "elapsed_s", "ranks",
         "data_wait", "save_pause_s", "save_write_s", "rank_comm", "rank_wait", "rank_slowest",
         "rank_sent_mb"}
# Sums in another order: losses agree to some roundings of float32. What is a difference of scores is
# as good as they are; a maximum that two positions share may fall on the other one.
LIMIT = 1e-5
OF_POSITIONS = {"top_position": 0.05, "margin": 1e-4}


def curve(w, name):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in w.metrics(name)]


def near(key, a, b):
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= OF_POSITIONS.get(key, LIMIT) * max(abs(a), abs(b), 1e-3)
    return a == b


def expect_curve(w, name, other):
    """Loss for loss the same run; shares and norms of gradients too."""
    got, want = curve(w, name), curve(w, other)
    w.expect(len(got) == len(want) > 0, f"{name}: {len(got)} lines, {other} has {len(want)}")
    for a, b in zip(got, want):
        apart = [k for k in b if not near(k, a.get(k), b[k])]
        w.expect(not apart and a.keys() == b.keys(),
                 f"{name} step {a.get('step')}: {[(k, a.get(k), b[k]) for k in apart]}")


def ranks_follow_the_curve_of_one(w):
    """Both phases with adapters and dropout; what is left can be used like any run."""
    lora = ["lora.r=4", "lora.dropout=0.2", "adapt.batch.texts=8", "run.save_total_limit=9"]
    w.expect_exit(w.train("one", *lora, "device.threads=1"), 0)
    for size in (2, 4):
        results = Job(w, size, f"r{size}", *lora).wait()
        for result in results:
            w.expect_exit(result, 0)
        w.expect(results[0].stdout.startswith("model ") and not any(r.stdout for r in results[1:]),
                 "only rank 0 says what came out")
        w.expect("2 ranks" in results[0].stderr or size != 2, results[0].stderr)
        expect_curve(w, f"r{size}", "one")
        for row in w.metrics(f"r{size}"):
            w.expect(row["ranks"] == size and 0 <= row["rank_wait"] <= 1
                     and 0 < row["rank_comm"] <= 1 and row["rank_slowest"] >= 1
                     and row["rank_sent_mb"] > 0, row)
        w.expect(w.checkpoints(f"r{size}") == w.checkpoints("one"), w.checkpoints(f"r{size}"))
        w.expect(not list((w.folder / f"r{size}").glob("failure.*")), "a failure of a good run")
        for rank in range(size):
            told = re.findall(rf"  rank {rank} on \S+  median [\d.e-]+ ms  p95 [\d.e-]+ ms  max [\d.e-]+ ms  "
                              r"waited (\d+\.\d) %  slowest in (\d+) %", results[0].stderr)
            w.expect(len(told) == 2 and all(float(share) <= 100 for row in told for share in row),
                     f"work of rank {rank} in two phases: {results[0].stderr}")
    w.must("encode", "-m", f"r2/checkpoints/{LAST}", "-i", "beir", "-o", "r2.jsonl")
    # The same ranks again: the same bytes.
    for result in Job(w, 2, "again", *lora).wait():
        w.expect_exit(result, 0)
    w.expect(w.checkpoint("again", LAST) == w.checkpoint("r2", LAST), "not the same bytes")
    w.remove("r4", "again")


def blocks_of_negatives_do_not_depend_on_ranks(w):
    """As many blocks as ranks, more, or fewer: the curve of one rank with these blocks."""
    settings = ["lora.r=4", "lora.dropout=0.2", "adapt.batch.texts=8"]
    w.expect_exit(w.train("whole", *settings, "device.threads=1"), 0)
    for blocks in (2, 4):
        cut = [*settings, f"contrastive.negative_blocks={blocks}"]
        w.expect_exit(w.train("b1", *cut, "device.threads=1"), 0)
        first, free = ([row for row in w.metrics(name) if row["phase"] == "contrastive"][0]
                       for name in ("b1", "whole"))
        w.expect(first["nce"] < 0.99 * free["nce"], "no fewer negatives")
        w.expect(first["reg_q"] == free["reg_q"], "FLOPS of the whole step does not know of blocks")
        for size in (2, 4):
            for result in Job(w, size, "b", *cut).wait():
                w.expect_exit(result, 0)
            expect_curve(w, "b", "b1")
            w.remove("b")
        # From a csplade that dealt them out otherwise; a file without its seal may be a changed one.
        go_back(w, "b1", "00000004")
        path = w.folder / "b1/checkpoints/contrastive-00000004.h5"
        path.write_bytes(path.read_bytes()[:-32].replace(b"block_layout 2", b"block_layout 1"))
        w.expect_exit(w.train("b1", *cut, "device.threads=1"), 0, "block_layout was 1 before and is 2 now")
        w.remove("b1")
    w.remove("whole")
    w.expect_exit(w.train("x", "contrastive.negative_blocks=3"), 2, "negative_blocks is 3", "8 queries")
    results = Job(w, 2, "x", "adapt.batch.texts=8", "contrastive.negative_blocks=3",
                  "contrastive.batch.queries=12").wait()
    w.expect_exit(results[0], 2, "contrastive.negative_blocks is 3, which 2 ranks cannot share")
    w.expect_exit(results[1], 2)


def write_copies(w):
    """Blocks of eight texts, three times each. Eight documents go through the model together, by
    whichever rank, so that copies have the same bits, and a query finds three with one score on three
    ranks: the one that counts is that of the largest id, which is neither the first nor the last."""
    texts = [json.loads(line) for line in (w.folder / "beir/corpus.jsonl").open()]
    shutil.copytree(w.folder / "beir", w.folder / "copies")
    with (w.folder / "copies/corpus.jsonl").open("w") as stream:
        for block in range(0, len(texts) // 8 * 8, 8):
            for letter in "mza":
                for row in texts[block:block + 8]:
                    stream.write(json.dumps({**row, "_id": letter + row["_id"]}) + "\n")
    for name in ("train", "dev"):
        path = w.folder / f"copies/qrels/{name}.tsv"
        path.write_text(path.read_text().replace("\td", "\tzd"))


def evaluations_are_those_of_one_rank(w):
    """To the last bit, of a model that a step does not change, also where scores are equal."""
    write_copies(w)
    settings = ["run.phases=[contrastive]", "contrastive.max_steps=2", "optim.learning_rate=1e-30",
                "data.corpus=copies", "data.qrels=copies/qrels/train.tsv",
                "data.dev_qrels=copies/qrels/dev.tsv", "run.eval_steps=1", "run.rank_timeout_s=60"]
    for sizes, how in (((1, 2, 3, 4), ["eval.top_k=1"]), ((1, 4), ["eval.pool=60", "eval.queries=11"])):
        seen = []
        w.expect_exit(w.train("e", *settings, *how, "device.threads=1"), 0)
        for size in sizes:
            if size > 1:
                w.remove("e")
                own = ["contrastive.batch.queries=12"] if size == 3 else []
                for result in Job(w, size, "e", *settings, *how, *own).wait():
                    w.expect_exit(result, 0)
            rows = [{k: v for k, v in row.items() if k != "elapsed_s"} for row in w.metrics("e")
                    if "eval/AP" in row]
            w.expect(len(rows) == 2 and rows[0]["eval/AP"] > 0, rows)
            seen.append(rows)
        w.expect(all(rows == seen[0] for rows in seen), seen)
        w.remove("e")
    w.remove("copies")


def mpirun_gives_what_tcp_gives(w):
    """To the byte, because sums are formed in the order of ranks over either."""
    for result in Job(w, 2, "tcp").wait():
        w.expect_exit(result, 0)
    result = mpirun(w, 2, "mpi")
    if result is not None:
        w.expect_exit(result, 0, "2 ranks started by mpirun")
        w.expect(w.checkpoint("mpi", LAST) == w.checkpoint("tcp", LAST), "other bytes")
        w.expect_exit(mpirun(w, 2, "bad", "data.qrels=nowhere.tsv"), 1, "nowhere.tsv")
        w.expect((w.folder / "bad/failure.rank1.json").exists(), "no file of rank 1")
    w.remove("tcp", "mpi", "bad")


def a_run_goes_on_with_another_number_of_ranks(w):
    """From the middle of two ranks' run to its end, on one and on four, each with its share of the
    machine's cores, however many threads a rank had before."""
    settings = ["run.save_total_limit=9"]
    cores = len(os.sched_getaffinity(0))
    for result in Job(w, 2, "a", *settings).wait():
        w.expect_exit(result, 0)
    for size in (1, 4):
        shutil.copytree(w.folder / "a", w.folder / "b")
        folder = w.folder / "b/checkpoints"
        for path in folder.glob("contrastive-*.h5"):
            if path.name > "contrastive-00000002.h5":
                path.unlink()
        (folder / "LATEST").write_text("contrastive-00000002.h5")
        for result in Job(w, size, "b", *settings, "device.threads=0").wait():
            w.expect_exit(result, 0, *(["going on from", f"ranks was 2 before and is {size} now",
                                        f"{max(cores // size, 1)} threads"]
                                       if result.args == "rank 0" else []))
        expect_curve(w, "b", "a")
        w.remove("b")
    w.remove("a")


FULL = ["run.save_total_limit=9", "run.bucket_mb=0.001"]
SHARED = [*FULL, "run.shard_state=on"]


def states(w, name, step=None):
    folder = w.folder / name / "checkpoints"
    return sorted(p.name for p in folder.glob(f"contrastive-{step or '*'}.rank*.state"))


def go_back(w, name, step):
    """A run that was killed after this step."""
    folder = w.folder / name / "checkpoints"
    for path in folder.glob("contrastive-*"):
        if path.name[len("contrastive-"):][:8] > step:
            path.unlink()
    (folder / "LATEST").write_text(f"contrastive-{step}.h5")


def ranks_that_share_the_state_out_follow_the_same_curve(w):
    """To the bytes of ranks that do not, but for where moments are; and as one alone. Whether state is
    written in the step or beside training, at some steps or after each, changes nothing."""
    w.expect_exit(w.train("full", *FULL, "device.threads=1"), 0)
    for name, settings in (("whole", FULL), ("parts", [*SHARED, "run.async_save=on"]),
                           ("again", [*SHARED, "run.async_save=off"]),
                           ("each", [*SHARED, "run.save_steps=1"])):
        results = Job(w, 2, name, *settings).wait()
        for result in results:
            w.expect_exit(result, 0)
        w.expect((" beside training, from a copy of " in results[0].stderr) == (name != "again") and
                 ("MiB on rank 0" in results[0].stderr) == (name in ("parts", "each")) and
                 "from a copy" not in results[1].stderr, results[0].stderr)
        w.expect(all(row.get("save_pause_s", 0) is None or row["save_pause_s"] > 0
                     for row in w.metrics(name) if "loss" in row), "pauses")
    w.expect(curve(w, "parts") == [{**row, "grad_norm": a["grad_norm"]} for row, a in
                                   zip(curve(w, "whole"), curve(w, "parts"))], "another curve")
    expect_curve(w, "parts", "full")
    w.expect(len(states(w, "parts", "00000006")) == 2 and not states(w, "whole"), states(w, "parts"))
    for folder in ("parts", "again"):
        w.must("encode", "-m", f"{folder}/checkpoints/{LAST}", "-i", "beir", "-o", f"{folder}.jsonl")
    w.must("encode", "-m", f"whole/checkpoints/{LAST}", "-i", "beir", "-o", "whole.jsonl")
    w.must("info", f"parts/checkpoints/{LAST}")
    w.must("export", "-m", f"parts/checkpoints/{LAST}", "--format", "hf", "-o", "exported")
    vectors = [(w.folder / f"{name}.jsonl").read_text() for name in ("parts", "whole")]
    w.expect(vectors[0].replace("parts/", "whole/") == vectors[1], "other vectors")
    for name in ("again", "each"):
        for file in (*w.checkpoints("parts"), *states(w, "parts")):
            w.expect(w.checkpoint(name, file) == w.checkpoint("parts", file), f"{name} {file}: other bytes")
    w.expect(len(states(w, "each")) == 2 * 6, states(w, "each"))
    w.remove("full", "whole", "again", "each", "exported")
    # Rank 0 alone knows that an evaluation was the best one: all write their state all the same.
    for result in Job(w, 2, "best", *SHARED, "run.phases=[contrastive]", "run.save_steps=0",
                      "run.eval_steps=1", "data.dev_qrels=beir/qrels/dev.tsv").wait():
        w.expect_exit(result, 0)
    found = w.checkpoints("best")
    w.expect(len(found) > 1 and all(len(states(w, "best", name[12:20])) == 2 for name in found), found)
    w.remove("best")


def shared_state_is_read_by_any_number_of_ranks(w):
    """From its middle: on two ranks to the same bytes; on one and four, shared or not, and from
    whole state to shared, to the same curve."""
    for start, size, settings in (("parts", 2, SHARED), ("parts", 1, FULL), ("parts", 4, SHARED),
                                  ("parts", 2, FULL), ("whole", 2, SHARED)):
        if not (w.folder / start).exists():
            for result in Job(w, 2, start, *(SHARED if start == "parts" else FULL)).wait():
                w.expect_exit(result, 0)
        shutil.copytree(w.folder / start, w.folder / "b")
        go_back(w, "b", "00000002")
        for result in Job(w, size, "b", *settings).wait():
            w.expect_exit(result, 0, *(["going on from"] if result.args == "rank 0" else []))
        expect_curve(w, "b", start)
        shares = settings is SHARED and size > 1
        w.expect(len(states(w, "b", "00000006")) == (size if shares else 0), states(w, "b"))
        if (start, size, settings) == ("parts", 2, SHARED):
            for file in (LAST, *states(w, "parts")):
                w.expect(w.checkpoint("b", file) == w.checkpoint("parts", file), f"{file}: other bytes")
        w.remove("b")
    w.remove("whole")


def damaged_state_is_named_and_passed_over(w):
    if not (w.folder / "parts").exists():
        for result in Job(w, 2, "parts", *SHARED).wait():
            w.expect_exit(result, 0)
    for damage in ("missing", "flipped"):
        shutil.copytree(w.folder / "parts", w.folder / "b")
        folder = w.folder / "b/checkpoints"
        # Left by a killed attempt: of no checkpoint, and not of this one.
        (folder / "contrastive-00000008.rank0of2.0123456789abcdef.state").write_text("x")
        (folder / "contrastive-00000006.rank0of2.0123456789abcdef.state").write_text("x")
        victim = folder / states(w, "parts", "00000006")[1]
        if damage == "missing":
            victim.unlink()
        else:
            data = bytearray(victim.read_bytes())
            data[len(data) // 2] ^= 1
            victim.write_bytes(data)
        words = (["is missing"] if damage == "missing" else []) + [victim.name]
        for result in Job(w, 2, "b", *SHARED, f"run.resume=b/checkpoints/{LAST}").wait():
            w.expect_exit(result, 3, *(words if result.args == "rank 0" else []))
        results = Job(w, 2, "b", *SHARED).wait()
        w.expect_exit(results[0], 0, "passed over a damaged checkpoint", *words,
                      "going on from b/checkpoints/contrastive-00000004.h5")
        w.expect(states(w, "b") == states(w, "parts"), states(w, "b"))
        for file in (LAST, *states(w, "parts")):
            w.expect(w.checkpoint("b", file) == w.checkpoint("parts", file), f"{file}: other bytes")
        w.remove("b")
    # Old ones go with their checkpoints.
    shutil.copytree(w.folder / "parts", w.folder / "b")
    go_back(w, "b", "00000004")
    for result in Job(w, 2, "b", *SHARED, "run.save_total_limit=1").wait():
        w.expect_exit(result, 0)
    w.expect(states(w, "b") == states(w, "parts", "00000006"), states(w, "b"))
    w.remove("b", "parts")
    w.expect_exit(w.train("x", *SHARED, "lora.r=4"), 2, "run.shard_state on is of full fine-tuning")


def what_ranks_disagree_on_is_named(w):
    """Before the first step, and nothing is written. What all find, rank 0 alone says."""
    def expect_once(results, *messages):
        for result in results:
            w.expect_exit(result, 2, *(messages if result.args == "rank 0" else []))
            w.expect(result.args == "rank 0" or "csplade:" not in result.stderr, result.stderr)

    expect_once(Job(w, 2, "x", own={1: ["contrastive.temperature=3"]}).wait(), "the config", "temperature")
    expect_once(Job(w, 3, "x", "contrastive.temprature=3").wait(), "no such setting")
    # What one finds alone it says itself, and does not leave the others waiting.
    start = time.monotonic()
    results = Job(w, 2, "x", own={1: ["contrastive.temprature=3"]}).wait()
    w.expect(time.monotonic() - start < 15, "it took too long")
    w.expect_exit(results[1], 2, "no such setting")
    w.expect_exit(results[0], 2, "rank 1", "no such setting")
    expect_once(Job(w, 3, "x").wait(), "contrastive.batch.queries is 8", "3 ranks")
    w.expect(not (w.folder / "x/checkpoints").exists() or not w.checkpoints("x"), "something is written")
    w.remove("x")


def one_rank_of_a_machine_reads_the_weights(w):
    """Rank 1 is where they are not, and gets them from rank 0, also below the adapters of a
    checkpoint; a damaged file is said once."""
    here = w.folder / "elsewhere"
    (here / "model").mkdir(parents=True)
    for name in ("beir", "text.txt", "config.yaml", "f", "s"):
        (here / name).symlink_to(w.folder / name)
    for name in ("config.json", "tokenizer.json", "csplade.json"):
        if (w.folder / "model" / name).exists():
            (here / "model" / name).symlink_to(w.folder / "model" / name)
    short = ["run.phases=[contrastive]", "contrastive.max_steps=2"]
    last = "contrastive-00000002.h5"
    for how, on in (([], ["lora.r=4"]), (["lora.r=4"], ["lora.r=4"])):
        for result in Job(w, 2, "s", *short, *how).wait():
            w.expect_exit(result, 0)
        for result in Job(w, 2, "f", *short, *how, cwd={1: here}).wait():
            w.expect_exit(result, 0)
        w.expect(w.checkpoint("f", last) == w.checkpoint("s", last), "other bytes")
        w.remove("f")
        # From what that left, new adapters over whole weights or those that are there; then resumed.
        for _ in range(2):
            for result in Job(w, 2, "f", *short, *on, f"model.path=s/checkpoints/{last}",
                              cwd={1: here}).wait():
                w.expect_exit(result, 0)
        w.remove("f", "s")
    whole = w.folder / "model/model.safetensors"
    data = whole.read_bytes()
    whole.write_bytes(data[:-100])
    try:
        results = Job(w, 2, "f", *short).wait()
    finally:
        whole.write_bytes(data)
    for result in results:
        w.expect_exit(result, 3)
    w.expect(sum(r.stderr.count("model.safetensors") for r in results) == 1, results)
    w.remove("f", "elsewhere")


def one_rank_of_a_machine_reads_the_data(w):
    """Rank 1 is where there are texts alone, and of the compressed ones not even these: it gets what was
    joined, judged and counted from rank 0. The same bytes as of ranks that have all files."""
    here = w.folder / "elsewhere"
    (here / "beir").mkdir(parents=True)
    for name in ("model", "config.yaml", "f", "s", "beir/corpus.jsonl", "beir/queries.jsonl"):
        (here / name).symlink_to(w.folder / name)
    (w.folder / "text.txt.gz").write_bytes(gzip.compress((w.folder / "text.txt").read_bytes()))
    (w.folder / "negatives.tsv").write_text("".join(f"q{i} d{i + 2} d{i + 1}\n" for i in range(40)))
    train = w.folder / "beir/qrels/train.tsv"
    judged = train.read_text()
    settings = ["data.text=[text.txt.gz]", "data.negatives=negatives.tsv",
                "data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=3", "eval.pool=60"]
    try:
        train.write_text(judged + "q3\tnowhere\t1\n")
        for name, cwd in (("s", {}), ("f", {1: here})):
            results = Job(w, 2, name, *settings, cwd=cwd).wait()
            for result in results:
                w.expect_exit(result, 0)
            w.expect(sum(r.stderr.count("warn  data") for r in results) == 1 and
                     results[0].stderr.count("positives not in the corpus: 1 (nowhere)") == 1, results)
        w.expect(w.checkpoint("f", LAST) == w.checkpoint("s", LAST), "other bytes")
        w.expect(curve(w, "f") == curve(w, "s"), "another curve")
        w.remove("f", "s")
        # What is wrong with a file is said once, by the rank that reads it; all end with its code.
        train.write_text(judged + "q3\td3\n")
        results = Job(w, 3, "f", *settings, "contrastive.batch.queries=12", "adapt.batch.texts=12",
                      cwd={1: here}).wait()
        for rank, result in enumerate(results):
            w.expect_exit(result, 3, *(["train.tsv:82: "] if rank == 0 else []))
            failure = json.loads((w.folder / f"f/failure.rank{rank}.json").read_text())
            w.expect(failure["first_rank"] == 0 and "train.tsv:82: " in failure["reason"], failure)
        w.expect(sum(r.stderr.count("train.tsv") for r in results) == 1, results)
    finally:
        train.write_text(judged)
    w.remove("f", "elsewhere")
    for name in ("text.txt.gz", "negatives.tsv"):
        (w.folder / name).unlink()


def a_collection_is_read_once(w):
    """By the steps and the evaluations of all ranks of a machine: pipes give it once only."""
    settings = ["run.phases=[contrastive]", "data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=3",
                "data.dev_queries=beir/queries.jsonl"]
    for size in (1, 2):
        cat = []
        (w.folder / "pipes").mkdir()
        for name in ("corpus.jsonl", "queries.jsonl"):
            os.mkfifo(w.folder / "pipes" / name)
            cat.append(subprocess.Popen(["sh", "-c", f"cat beir/{name} > pipes/{name}"], cwd=w.folder))
        try:
            for result in Job(w, size, "p", *settings, "data.corpus=pipes").wait():
                w.expect_exit(result, 0)
        finally:
            for process in cat:
                process.kill()
                process.wait()
        for result in Job(w, size, "f", *settings).wait():
            w.expect_exit(result, 0)
        w.expect(curve(w, "p") == curve(w, "f"), "another curve")
        w.remove("p", "f", "pipes")


def what_fails_on_one_rank_ends_all(w):
    """With its exit code and its reason, on every rank, and a file of each."""
    bad = w.folder / "bad"
    shutil.copytree(w.folder / "model", bad)
    (bad / "tokenizer.json").write_text("{")
    # A rank that has another model folder under the same name: a file system that is not shared.
    settings = ["model.path=shared"]
    (w.folder / "shared").symlink_to("model")
    here = w.folder / "elsewhere"
    here.mkdir()
    for name in ("beir", "text.txt", "config.yaml"):
        (here / name).symlink_to(w.folder / name)
    (here / "shared").symlink_to(bad)
    (here / "f").symlink_to(w.folder / "f")
    (w.folder / "f").mkdir()
    port, results = free_port(), []
    processes = []
    for rank in range(2):
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(port)}
        processes.append(w.start("train", "config.yaml", "run.output_dir=f", "device.threads=1",
                                 *settings, env=env, cwd=here if rank == 1 else w.folder))
    start = time.monotonic()
    for process in processes:
        out, err = process.communicate(timeout=60)
        results.append(subprocess.CompletedProcess("rank", process.returncode, out, err))
    w.expect(time.monotonic() - start < 30, "it took too long")
    w.expect_exit(results[1], 3, "tokenizer.json")
    w.expect_exit(results[0], 3, "rank 1", "tokenizer.json")
    for rank in range(2):
        failure = json.loads((w.folder / f"f/failure.rank{rank}.json").read_text())
        w.expect(failure["exit_code"] == 3 and failure["first_rank"] == 1 and
                 "tokenizer.json" in failure["reason"], failure)
    w.remove("f", "elsewhere", "bad")
    (w.folder / "shared").unlink()


def a_killed_rank_ends_the_others_and_the_run_goes_on(w):
    """The last checkpoint is good, and the run ends in the same bytes as one never disturbed."""
    settings = ["contrastive.max_steps=60", "run.phases=[contrastive]", "run.save_steps=5"]
    shared = [*settings, "run.shard_state=on", "run.bucket_mb=0.001"]
    for name, way in (("whole", settings), ("shared", shared)):
        for result in Job(w, 2, name, *way).wait():
            w.expect_exit(result, 0)
    for victim, way, whole in ((1, settings, "whole"), (0, settings, "whole"), (1, shared, "shared"),
                               (0, shared, "shared")):
        job = Job(w, 2, "k", *way)
        deadline = time.monotonic() + 60
        while not w.checkpoints("k") and time.monotonic() < deadline:
            time.sleep(0.02)
        job.ranks[victim].send_signal(signal.SIGKILL)
        start = time.monotonic()
        results = job.wait()
        w.expect(time.monotonic() - start < 20, "the others took too long")
        w.expect(results[victim].returncode == -signal.SIGKILL, results[victim].returncode)
        w.expect_exit(results[1 - victim], 1, *(["rank 1"] if victim == 1 else []))
        w.expect((w.folder / f"k/failure.rank{1 - victim}.json").exists(), "no file")
        for result in Job(w, 2, "k", *way).wait():
            w.expect_exit(result, 0)
        w.expect(not list((w.folder / "k").glob("failure.*")) or victim == 1,
                 "a failure of before is still there")
        last = "contrastive-00000060.h5"
        w.expect(w.checkpoint("k", last) == w.checkpoint(whole, last), "other bytes")
        w.expect(states(w, "k") == states(w, whole), states(w, "k"))
        w.remove("k")
    w.remove("whole", "shared")


def a_rank_that_cannot_write_its_state_ends_all(w):
    """With its reason, in the step or beside training; what was complete before stays, and the run
    goes on to the same bytes. The disk is full of files of 20,000 bytes."""
    settings = [*SHARED, "contrastive.max_steps=60", "run.phases=[contrastive]", "run.save_steps=5"]
    last = "contrastive-00000060.h5"
    for result in Job(w, 2, "whole", *settings).wait():
        w.expect_exit(result, 0)
    for way in ("on", "off"):
        job = Job(w, 2, "f", *settings, f"run.async_save={way}")
        deadline = time.monotonic() + 60
        while not w.checkpoints("f") and time.monotonic() < deadline:
            time.sleep(0.005)
        resource.prlimit(job.ranks[1].pid, resource.RLIMIT_FSIZE, (20000, 20000))
        results = job.wait()
        w.expect_exit(results[1], 1, ".rank1of2.", "File too large")
        w.expect_exit(results[0], 1, "rank 1", "File too large")
        for rank in range(2):
            failure = json.loads((w.folder / f"f/failure.rank{rank}.json").read_text())
            w.expect(failure["first_rank"] == 1 and "File too large" in failure["reason"], failure)
        kept = w.checkpoints("f")
        w.expect(kept and last not in kept and
                 (w.folder / "f/checkpoints/LATEST").read_text() == kept[-1], kept)
        for name in kept:
            w.expect(len(states(w, "f", name[12:20])) >= 2, f"{name}: {states(w, 'f')}")
        results = Job(w, 2, "f", *settings, f"run.async_save={way}").wait()
        w.expect_exit(results[0], 0, f"going on from f/checkpoints/{kept[-1]}")
        w.expect_exit(results[1], 0)
        for file in (last, *states(w, "whole")):
            w.expect(w.checkpoint("f", file) == w.checkpoint("whole", file), f"{file}: other bytes")
        w.expect(states(w, "f") == states(w, "whole"), states(w, "f"))
        w.remove("f")
    w.remove("whole")


def what_all_ranks_end_for_keeps_the_checkpoint_before(w):
    """Its state is being written when the next step is judged."""
    strong = ["contrastive.lambda_q=100", "contrastive.lambda_d=100", "contrastive.ramp_steps=0",
              "contrastive.max_steps=60", "run.phases=[contrastive]", "optim.learning_rate=2e-2",
              "contrastive.regularizer=l1", "optim.lr_scheduler_type=constant"]
    for result in Job(w, 2, "c", *SHARED, *strong, "run.stop_on_collapse=true", "run.save_steps=1").wait():
        w.expect_exit(result, 4, *(["collapsed"] if result.args == "rank 0" else []))
    last = len(w.steps("c")) - 1
    w.expect(last > 0 and w.checkpoints("c")[-1] == f"contrastive-{last:08d}.h5" and
             len(states(w, "c", f"{last:08d}")) == 2, (last, w.checkpoints("c"), states(w, "c")))
    w.remove("c")


def a_signal_to_one_rank_stops_all_with_a_checkpoint(w):
    """It is complete when they end, also where each writes a part of it; rank 0 says so for all."""
    for more in ([], SHARED):
        job = Job(w, 2, "s", "contrastive.max_steps=200", "run.phases=[contrastive]", "run.save_steps=0",
                  *more)
        deadline = time.monotonic() + 60
        while not (w.folder / "s/metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        job.ranks[1].send_signal(signal.SIGUSR2)
        for result in job.wait():
            w.expect_exit(result, 75)
            w.expect(("stopped after" in result.stderr) == (result.args == "rank 0"), result.stderr)
        found = w.checkpoints("s")
        w.expect(len(found) == 1 and len(states(w, "s", found[0][12:20])) == (2 if more else 0),
                 (found, states(w, "s")))
        w.remove("s")


if __name__ == "__main__":
    sys.exit(run_tests([
        ranks_follow_the_curve_of_one,
        blocks_of_negatives_do_not_depend_on_ranks,
        evaluations_are_those_of_one_rank,
        mpirun_gives_what_tcp_gives,
        a_run_goes_on_with_another_number_of_ranks,
        ranks_that_share_the_state_out_follow_the_same_curve,
        shared_state_is_read_by_any_number_of_ranks,
        damaged_state_is_named_and_passed_over,
        what_ranks_disagree_on_is_named,
        one_rank_of_a_machine_reads_the_weights,
        one_rank_of_a_machine_reads_the_data,
        a_collection_is_read_once,
        what_fails_on_one_rank_ends_all,
        a_killed_rank_ends_the_others_and_the_run_goes_on,
        a_rank_that_cannot_write_its_state_ends_all,
        what_all_ranks_end_for_keeps_the_checkpoint_before,
        a_signal_to_one_rank_stops_all_with_a_checkpoint,
    ]))
