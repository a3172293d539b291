#!/usr/bin/env python3
"""csplade encode: formats, shards, resumption, the contract and its overrides, bad input, devices, and
what search and eval make of the vectors. Arguments: the program, the source folder, names of tests."""
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

from workspace import Numbers, run_tests, with_contract

EMULATED = Path(sys.argv[1]).parent / "emulated/libcsplade_cuda_emu.so"
SHARED = Path(sys.argv[2]).parent / "shared/data/models/stories260K"


def encode(w, output, *words, model="model", source="beir", **options):
    return w.run("encode", "-m", model, "-i", source, "-o", output, *words, **options)


def rows(w, name):
    """The (id, vector) rows of a .jsonl of vectors, and its header."""
    lines = [json.loads(line) for line in (w.folder / name).read_text().splitlines()]
    header = lines.pop(0)["csplade_vectors"] if "csplade_vectors" in lines[0] else None
    return [(row["id"], row["vector"]) for row in lines], header


def write_texts(w, name, texts):
    with (w.folder / name).open("w") as stream:
        for i, text in enumerate(texts):
            stream.write(json.dumps({"_id": f"t{i}", "text": text}) + "\n")


def both_formats_hold_the_same(w):
    for side, count in (("document", 100), ("query", 100)):
        for kind in ("h5", "jsonl"):
            result = w.expect_exit(encode(w, f"{side}.{kind}", "--side", side), 0)
            w.expect(result.stdout.startswith(f"rows {count}\nempty 0\nmean_terms "), result.stdout)
            w.must("export", "--vectors", f"{side}.{kind}", "--format", "seismic", "--side", side,
                   "--output", f"{side}.{kind}.d")
        files = sorted(p.relative_to(w.folder / f"{side}.h5.d")
                       for p in (w.folder / f"{side}.h5.d").rglob("*.jsonl"))
        same = [(w.folder / f"{side}.h5.d" / p).read_bytes() ==
                (w.folder / f"{side}.jsonl.d" / p).read_bytes() for p in files]
        w.expect(same and all(same), f"{side}: {files}")
        vectors, header = rows(w, f"{side}.jsonl")
        w.expect([name for name, _ in vectors] == [f"{side[0]}{i}" for i in range(count)], "order")
        w.expect(header["side"] == side and header["vocab"] == 320, header)
        w.expect(header["meta"]["contract"]["passage_prefix"] == "passage: ", header)
        w.expect(all(value > 0 and 0 <= int(term) < 320 for _, vector in vectors
                     for term, value in vector.items()), "weights")
    again = (w.folder / "document.h5").read_bytes()
    w.expect_exit(encode(w, "document.h5"), 0)
    w.expect((w.folder / "document.h5").read_bytes() == again, "the same bytes again")
    w.expect(not list(w.folder.glob("*.parts")), "parts are left")
    w.expect("100, 0 of them empty" in w.run("info", "document.h5").stdout, "info")


def search_and_eval_read_them(w):
    for kind in ("h5", "jsonl"):
        w.must("search", "--index", f"document.{kind}", "--queries", f"query.{kind}", "--output",
               f"{kind}.txt")
    w.expect((w.folder / "h5.txt").read_bytes() == (w.folder / "jsonl.txt").read_bytes(), "runs")
    out = w.must("eval", "--qrels", "beir/qrels/dev.tsv", "--run", "h5.txt").stdout
    w.expect("nDCG@10" in out, out)
    # A text on the command line is encoded as the query side does.
    text = json.loads((w.folder / "beir/queries.jsonl").read_text().splitlines()[3])["text"]
    out = w.must("search", "--index", "document.h5", "--model", "model", "--query", text).stdout
    best = [line.split() for line in (w.folder / "h5.txt").read_text().splitlines()
            if line.startswith("q3 ")][0][2]
    w.expect(best in out, f"{best}\n{out}")
    w.expect_exit(w.run("search", "--index", "document.h5", "--model", "model", "--query", ""), 0)
    other = with_contract(w, "cut", query_prefix="")
    w.expect_exit(encode(w, "q2.h5", "--side", "query", model=other), 0)
    w.expect_exit(w.run("search", "--index", "document.h5", "--queries", "q2.h5", "--output", "r"), 3,
                  "query_prefix")


def shards_cover_everything_once(w):
    whole, _ = rows(w, "document.jsonl")
    for n in (1, 3, 7):
        joined = []
        for i in range(n):
            result = encode(w, f"s{i}.jsonl", "--shard", f"{i}/{n}")
            w.expect_exit(result, 0) if result.returncode != 0 else None
            joined += rows(w, f"s{i}.jsonl")[0]
        w.expect([name for name, _ in joined] == [name for name, _ in whole], f"{n} shards")
        # Other micro-batches round differently: 24 bits of each weight, added up over the layers.
        apart = max(abs(a[1].get(t, 0) - v) for a, b in zip(joined, whole) for t, v in b[1].items())
        w.expect(apart < 1e-4, f"{n} shards: apart by {apart}")
    # More shards than rows: some are empty, and they are no error.
    counts = [encode(w, "s.h5", "--shard", f"{i}/150").stdout.split()[1] for i in (0, 1, 2, 149)]
    w.expect(counts == ["0", "1", "1", "1"], counts)
    for text in ("2/2", "-1/2", "1", "a/b", "0/0", "1/2x", "/", "/2", " 0/2", "0/ 2"):
        w.expect_exit(encode(w, "s.h5", "--shard", text), 2, f"--shard {text}")
    # Several processes of a launcher, with parts and, by oversight, without.
    of_two = {**os.environ, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    w.expect_exit(encode(w, "copy.h5", env=of_two), 2, "mpirun started 2 processes", "--shard, this one 1/2")
    w.expect(not (w.folder / "copy.h5").exists(), "written all the same")
    w.expect_exit(encode(w, "copy.h5", "--shard", "1/2", env=of_two), 0)


def merge(w, output, *shards):
    return w.run("merge", "--output", output, *shards)


def shards_are_merged_to_the_whole(w):
    """Row for row, under the header of a whole file, from and to both formats."""
    shards = [f"m{i}.{kind}" for i, kind in enumerate(("h5", "jsonl", "h5"))]
    for i, name in enumerate(shards):
        w.expect_exit(encode(w, name, "--shard", f"{i}/3"), 0)
        w.expect_exit(encode(w, f"n{i}.jsonl", "--shard", f"{i}/3"), 0)
    for output in ("merged.jsonl", "merged.h5"):
        result = w.expect_exit(merge(w, output, *shards), 0)
        w.expect(result.stdout == "rows 100\nfiles 3\n", result.stdout)
    got, header = rows(w, "merged.jsonl")
    parts = [rows(w, f"n{i}.jsonl") for i in range(3)]
    w.expect(got == parts[0][0] + parts[1][0] + parts[2][0], "other rows")
    w.expect(header == rows(w, "document.jsonl")[1], header)
    w.expect([part[1]["meta"]["part"]["last"] for part in parts] == [33, 66, 100], parts[0][1])
    w.must("search", "--index", "merged.h5", "--queries", "query.h5", "--output", "merged.txt")
    # More shards than rows: some are empty.
    write_texts(w, "two.jsonl", ["bala", "cede"])
    for i in range(5):
        w.expect_exit(encode(w, f"e{i}.h5", "--shard", f"{i}/5", source="two.jsonl"), 0)
    result = w.expect_exit(merge(w, "two.h5", *(f"e{i}.h5" for i in range(5))), 0)
    w.expect(result.stdout == "rows 2\nfiles 5\n", result.stdout)


def what_is_no_whole_collection_is_not_merged(w):
    names = [f"n{i}.jsonl" for i in range(3)]
    others = {"texts": ["--shard", "1/3"], "contract": ["--shard", "1/3", "--top-k", 5]}
    text = (w.folder / "beir/corpus.jsonl").read_text().splitlines(keepends=True)
    (w.folder / "t.jsonl").write_text("".join([text[1], text[0], *text[2:]]))
    w.expect_exit(encode(w, "texts.h5", *others["texts"], source="t.jsonl"), 0)
    w.expect_exit(encode(w, "contract.h5", *others["contract"]), 0)
    w.expect_exit(encode(w, "query.jsonl", "--side", "query", "--shard", "1/3"), 0)
    lines = (w.folder / names[1]).read_text().splitlines(keepends=True)
    (w.folder / "short.jsonl").write_text("".join(lines[:-1]))
    for shards, words in (
            (names[:2], "rows 66 to 99 of 100 are missing between n1.jsonl and the end"),
            (names[1:], "rows 0 to 32 of 100 are missing between the beginning and n1.jsonl"),
            ([names[0], names[2]], "rows 33 to 65 of 100 are missing between n0.jsonl and n2.jsonl"),
            ([names[0], names[0], names[1]], "n0.jsonl begins with row 0, but n0.jsonl ends with row 32"),
            (names[::-1], "rows 0 to 65 of 100 are missing"),
            ([names[0], "texts.h5", names[2]], "texts.h5 is of other texts than n0.jsonl"),
            ([names[0], "contract.h5", names[2]], "is of other model, precision or text contract than n0.jsonl"),
            ([names[0], "query.jsonl", names[2]], "query.jsonl is of other texts than n0.jsonl"),
            ([names[0], "short.jsonl", names[2]], "short.jsonl: rows 33 to 65 of 100 are not its 32"),
            (["document.h5"], "document.h5 does not say which rows")):
        w.expect_exit(merge(w, "no.h5", *shards), 3, words)
    w.expect_exit(merge(w, "no.h5"), 2, "SHARD")
    w.expect_exit(merge(w, "no.h5", "nowhere.h5"), 1, "nowhere.h5")
    w.expect_exit(merge(w, "no.txt", *names), 2, "no.txt")
    w.expect(not list(w.folder.glob("no.*")), "something is written")
    encode(w, "query.jsonl", "--side", "query")


def the_contract_is_obeyed(w):
    texts = ["bala cede", "bala cede difo gu lusa mane", "x", "   ", "bala"]
    write_texts(w, "t.jsonl", texts)
    write_texts(w, "p.jsonl", ["zu: " + text if text.strip() else text for text in texts])

    def vectors(model, *words, source="t.jsonl"):
        w.expect_exit(encode(w, "v.jsonl", *words, model=model, source=source), 0)
        return [vector for _, vector in rows(w, "v.jsonl")[0]]

    plain = with_contract(w, "plain", passage_prefix="", query_prefix="")
    prefixed = with_contract(w, "prefixed", passage_prefix="zu: ")
    w.expect(vectors("prefixed") == vectors("plain", source="p.jsonl"), "prefix")
    w.expect(vectors("plain")[3] == {}, "an empty text has an empty vector")
    w.expect(vectors("plain") != vectors("prefixed"), "the prefix is seen")
    w.expect(vectors(plain, "--side", "query") == vectors(plain), "sides differ only by contract")
    short = with_contract(w, "short", passage_prefix="", passage_max_len=3)
    w.expect(vectors(short) == vectors(plain, "--max-len", 3) != vectors(plain), "length")
    # Two copies of a text need twice the positions: of 64, one side's 24 tokens and their copy fit.
    half = with_contract(w, "half", passage_prefix="", passage_max_len=24)
    for variant in ("echo", "bi"):
        model = with_contract(w, variant, passage_prefix="", passage_max_len=24, query_max_len=24,
                              variant=variant)
        w.expect(vectors(model) == vectors(half, "--variant", variant) != vectors(half), variant)
    w.expect_exit(encode(w, "v.jsonl", "--variant", "echo", model=plain), 2, "128", "64")
    cut = with_contract(w, "cut", passage_prefix="", top_k_passage=4)
    top = vectors(cut)
    w.expect(top == vectors(plain, "--top-k", 4) and max(map(len, top)) == 4, "top k")
    strongest = [dict(sorted(v.items(), key=lambda item: (-item[1], int(item[0])))[:4])
                 for v in vectors(plain)]
    w.expect([set(v) for v in top] == [set(v) for v in strongest], "the strongest are kept")
    w.expect(vectors(cut, "--top-k", 0) == vectors(plain), "no cut")
    used = sorted({int(t) for v in vectors(plain) for t in v})[:20]
    left = vectors(with_contract(w, "left", passage_prefix="", exclude_ids=used))
    w.expect(all(int(t) not in used for v in left for t in v) and any(left), "excluded terms")
    scaled = vectors(with_contract(w, "scaled", passage_prefix="", logit_scale=0.5))
    w.expect(0 < sum(map(sum, (v.values() for v in scaled))) <
             sum(map(sum, (v.values() for v in vectors(plain)))), "scale")
    result = encode(w, "v.jsonl", "--variant", "bi", "--max-len", 5, "--prefix", "p", source="t.jsonl")
    w.expect_exit(result, 0, "variant is overridden", "longest text is overridden", "prefix is overr")
    _, header = rows(w, "v.jsonl")
    contract = header["meta"]["contract"]
    w.expect((contract["variant"], contract["passage_max_len"], contract["passage_prefix"]) ==
             ("bi", 5, "p"), "the contract stored is the one used")
    broken = with_contract(w, "broken", colour="red")
    w.expect_exit(encode(w, "v.jsonl", model=broken), 3, "broken/csplade.json", "colour")
    w.expect_exit(encode(w, "v.jsonl", "--max-len", 65), 2, "65", "64")
    # The largest that fits does not ask for room for a second copy.
    w.expect_exit(encode(w, "v.jsonl", "--max-len", 64), 0)


def empty_and_long_texts_are_counted(w):
    write_texts(w, "t.jsonl", ["", "bala", "  ", "bala " * 200])
    result = w.expect_exit(encode(w, "v.jsonl", source="t.jsonl"), 0, "2 empty", "1 cut at 64 tokens")
    w.expect("rows 4\nempty 2\n" in result.stdout, result.stdout)
    w.expect_exit(encode(w, "v.h5", "--strict", source="t.jsonl"), 3, "t.jsonl:1")
    write_texts(w, "t.jsonl", ["bala", "bala " * 200])
    w.expect_exit(encode(w, "v.h5", "--strict", source="t.jsonl"), 3, "t1", "64")
    write_texts(w, "t.jsonl", ["", " "])
    result = w.expect_exit(encode(w, "v.jsonl", source="t.jsonl"), 0)
    w.expect("rows 2\nempty 2\nmean_terms 0.00" in result.stdout, result.stdout)
    (w.folder / "none.jsonl").write_text("")
    w.expect_exit(encode(w, "v.h5", source="none.jsonl"), 0)
    w.expect("0, 0 of them empty" in w.run("info", "v.h5").stdout, "no rows")


def bad_input_is_refused_and_the_output_left(w):
    (w.folder / "keep.h5").write_bytes(b"precious")
    (w.folder / "line.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "b", "text": \n')
    (w.folder / "twice.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n')
    (w.folder / "bytes.tsv").write_bytes(b"a\tx\nb\t\xff\xfe\n")
    (w.folder / "id.jsonl").write_text('{"text": "x"}\n')
    cases = [("line.jsonl", 3, "line.jsonl:2"), ("twice.jsonl", 3, "twice.jsonl:2"),
             ("bytes.tsv", 3, "bytes.tsv:2"), ("id.jsonl", 3, "id.jsonl:1"),
             ("absent.jsonl", 1, "absent.jsonl"), ("-", 2, "cannot be read twice")]
    for source, code, message in cases:
        w.expect_exit(encode(w, "keep.h5", source=source), code, message)
    w.expect_exit(encode(w, "keep.txt"), 2, "keep.txt")
    w.expect_exit(encode(w, "no/such/folder.h5", source="line.jsonl"), 3, "line.jsonl:2")
    shutil.copytree(w.folder / "model", w.folder / "torn")
    data = (w.folder / "model/model.safetensors").read_bytes()
    (w.folder / "torn/model.safetensors").write_bytes(data[:-100])
    w.expect_exit(encode(w, "keep.h5", model="torn"), 3, "torn/model.safetensors")
    # A NaN never becomes an empty vector: in the weights it is named when they are read, ...
    (w.folder / "torn/model.safetensors").write_bytes(data[:-4] + b"\x00\x00\xc0\x7f")
    w.expect_exit(encode(w, "keep.h5", model="torn"), 4, "model.norm.weight holds nan")
    # ... and where finite weights (the last norm's, all FLT_MAX) overflow, the text is.
    (w.folder / "torn/model.safetensors").write_bytes(data[:-128] + b"\xff\xff\x7f\x7f" * 32)
    w.expect_exit(encode(w, "keep.h5", model="torn"), 4, "text d0: its hidden states are not finite")
    (w.folder / "torn/model.safetensors").write_bytes(data)
    (w.folder / "torn/tokenizer.json").write_text("{}")
    w.expect_exit(encode(w, "keep.h5", model="torn"), 3, "tokenizer.json")
    w.expect_exit(encode(w, "keep.h5", model="absent"), 1, "absent")
    w.expect((w.folder / "keep.h5").read_bytes() == b"precious", "an old output was lost")
    limited = encode(w, "big.h5", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                                       (20_000, 20_000)))
    w.expect_exit(limited, 1, "File too large")
    w.expect(not (w.folder / "big.h5").exists(), "half an output")


def a_checkpoint_encodes_under_its_contract(w):
    w.expect_exit(w.train("run", "model.variant=echo", "run.phases=[contrastive]"), 0)
    model = "run/checkpoints/contrastive-00000006.h5"
    w.expect_exit(encode(w, "c.jsonl", model=model), 0)
    _, header = rows(w, "c.jsonl")
    contract = header["meta"]["contract"]
    w.expect((contract["variant"], contract["passage_max_len"]) == ("echo", 20), contract)
    w.expect_exit(encode(w, "d.jsonl", "--variant", "causal", model=model), 0, "overridden")
    data = (w.folder / model).read_bytes()
    for name, torn in (("cut.h5", data[:len(data) // 2]), ("flip.h5", data[:9000] + b"?" + data[9001:]),
                       ("empty.h5", b"")):
        (w.folder / name).write_bytes(torn)
        w.expect_exit(encode(w, "e.h5", model=name), 3, name)
    w.expect_exit(encode(w, "e.h5", model="document.h5"), 3, "not a csplade checkpoint")
    w.must("export", "--model", model, "--format", "hf", "--output", "hf")
    w.expect_exit(encode(w, "e.jsonl", model="hf"), 0)
    w.expect(rows(w, "e.jsonl")[0] == rows(w, "c.jsonl")[0], "exported weights encode the same")


def a_killed_encoding_goes_on(w):
    """Parts have 8,192 rows: many tiny texts make two."""
    with (w.folder / "many.tsv").open("w") as stream:
        stream.writelines(f"m{i}\t{'abcdefghij'[i % 10]}{i % 7}\n" for i in range(13_000))
    settings = {"model": with_contract(w, "plain", passage_prefix="", query_prefix=""),
                "source": "many.tsv"}
    w.expect_exit(encode(w, "whole.h5", **settings), 0)
    parts = w.folder / "part.h5.parts"
    words = ["encode", "-m", "plain", "-i", "many.tsv", "-o", "part.h5"]
    process = w.start(*words)
    while process.poll() is None and not (parts / "part-00000.h5").exists():
        time.sleep(0.001)
    w.expect_exit(w.run(*words), 1, "locked by process") if process.poll() is None else None
    process.kill()
    process.communicate()
    if not parts.exists():
        print("skipped: it ended before it could be killed")
        return
    (parts / "part-00001.h5.tmp.1234").write_text("torn")
    saved = shutil.copytree(parts, w.folder / "saved")
    result = w.expect_exit(w.run(*words), 0, "were there from an earlier run")
    w.expect("of 13000 texts were there" in result.stderr, result.stderr)
    w.expect((w.folder / "part.h5").read_bytes() == (w.folder / "whole.h5").read_bytes(), "bytes")
    w.expect(not parts.exists(), sorted(parts.iterdir()) if parts.exists() else "")
    # Parts of other texts of the same number, or a damaged part, are not taken.
    shutil.copytree(saved, parts)
    data = (parts / "part-00000.h5").read_bytes()
    (parts / "part-00000.h5").write_bytes(data[:5000] + b"!" + data[5001:])
    w.expect_exit(w.run(*words), 0)
    w.expect((w.folder / "part.h5").read_bytes() == (w.folder / "whole.h5").read_bytes(), "damaged")
    shutil.copytree(saved, parts)
    text = (w.folder / "many.tsv").read_text()
    (w.folder / "many.tsv").write_text(text.replace("m5\tf5", "m5\tzz"))
    result = w.expect_exit(w.run(*words), 0, "parts of another encoding")
    w.expect("earlier run" not in result.stderr, result.stderr)
    w.expect((w.folder / "part.h5").read_bytes() != (w.folder / "whole.h5").read_bytes(), "old parts")


def a_folder_of_others_is_read(w):
    """stories260K, where it is: a model that csplade did not write, with BOS left to the contract."""
    if not SHARED.is_dir():
        print("skipped: no shared data")
        return
    write_texts(w, "t.jsonl", ["Once upon a time, there was a little girl", "The dog ran", ""])
    result = encode(w, "s.jsonl", model=SHARED, source="t.jsonl")
    w.expect_exit(result, 0, "no csplade.json", "standard contract")
    vectors, header = rows(w, "s.jsonl")
    w.expect(header["vocab"] == 512 and len(vectors[0][1]) > 5 and vectors[2][1] == {}, vectors)
    w.expect_exit(encode(w, "s.h5", "--max-len", 600, model=SHARED, source="t.jsonl"), 2, "600")


def a_device_gives_the_same_vectors(w):
    """On the emulated device, in micro-batches of several texts, so that rows come while others are
    computed: the CPU's terms, but for those that rounding may move over the edge of the cut."""
    if not EMULATED.exists():
        print("skipped: no emulated device")
        return
    environment = dict(os.environ, CSPLADE_CUDA_PLUGIN=str(EMULATED))
    numbers = Numbers(3)
    syllables = [c + v for c in "bcdfglmnprst" for v in "aeiou"]
    write_texts(w, "t.jsonl", ["".join(numbers.choice(syllables) for _ in range(2 + i % 9))
                               if i != 7 else " " for i in range(24)])

    def vectors(device, top_k, *words):
        w.expect_exit(encode(w, "v.jsonl", "--device", device, "--top-k", top_k, "--threads", 2,
                             "--micro-batch-tokens", 64, *words, source="t.jsonl", env=environment), 0)
        return [vector for _, vector in rows(w, "v.jsonl")[0]]

    whole = vectors("cpu", 0)
    w.expect(whole[7] == {} and max(map(len, whole)) > 20, "texts are too short")
    apart = 1e-4  # 24 bits of each weight, added up over the layers
    for top_k in (0, 1, 6):
        cpu, device = vectors("cpu", top_k), vectors("cuda:0", top_k, "--precision", "fp32")
        w.expect(device == vectors("cuda:0", top_k, "--precision", "fp32"), "the same again")
        for all_terms, a, b in zip(whole, cpu, device):
            w.expect(len(a) == len(b) or top_k == 0, f"{len(a)} and {len(b)} terms")
            edge = min(a.values(), default=0) if top_k else 0
            for term in {*a, *b}:
                if term in a and term in b:
                    w.expect(abs(a[term] - b[term]) < apart, f"term {term}: {a[term]} {b[term]}")
                else:
                    w.expect(abs(all_terms.get(term, 0) - edge) < 2 * apart, f"term {term}, cut {top_k}")
    # In bf16, what a device computes in unless asked otherwise, weights have 8 bits.
    narrow = vectors("cuda:0", 6)
    w.expect(narrow != device and [len(v) for v in narrow] == [len(v) for v in device], "bf16")
    w.expect(narrow == vectors("cuda:0", 6, "--precision", "bf16"), "bf16 is the standard")
    w.must("encode", "-m", "model", "-i", "t.jsonl", "-o", "v.h5", env=environment)

    def answers(*words):
        w.must("search", "--index", "v.h5", "--model", "model", "--query", "bala cede", "--output",
               "r.txt", *words, env=environment)
        return (w.folder / "r.txt").read_text()

    # Scores of both precisions are near, and not the same: search obeys --precision too.
    w.expect(answers("--device", "cuda:0") == answers("--device", "cuda:0", "--precision", "bf16")
             != answers("--device", "cuda:0", "--precision", "fp32"), "search")
    for words in (["encode", "-m", "model", "-i", "t.jsonl", "-o", "v.jsonl"],
                  ["search", "--index", "v.h5", "--model", "model", "--query", "x"]):
        w.expect_exit(w.run(*words, "--device", "cpu", "--precision", "bf16"), 5, "fp32 only")


if __name__ == "__main__":
    sys.exit(run_tests([
        both_formats_hold_the_same,
        search_and_eval_read_them,
        shards_cover_everything_once,
        shards_are_merged_to_the_whole,
        what_is_no_whole_collection_is_not_merged,
        the_contract_is_obeyed,
        empty_and_long_texts_are_counted,
        bad_input_is_refused_and_the_output_left,
        a_checkpoint_encodes_under_its_contract,
        a_killed_encoding_goes_on,
        a_folder_of_others_is_read,
        a_device_gives_the_same_vectors,
    ]))
