#!/usr/bin/env python3
"""csplade encode --quant: the same impacts as of export, and what reads them. Arguments: the program, the
source folder, names of tests."""
import json
import os
import shutil
import struct
import sys
import time
from pathlib import Path

from workspace import run_tests, with_contract

EMULATED = Path(sys.argv[1]).parent / "emulated/libcsplade_cuda_emu.so"


def encode(w, output, *words, model="model", source="beir", **options):
    return w.run("encode", "-m", model, "-i", source, "-o", output, "--threads", 2, *words, **options)


def rows(w, name):
    """The {id: vector} of a .jsonl of vectors, and its header."""
    lines = [json.loads(line) for line in (w.folder / name).read_text().splitlines()]
    return {row["id"]: row["vector"] for row in lines[1:]}, lines[0]["csplade_vectors"]


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def export(w, vectors, *words):
    """The bytes of an export, by file."""
    w.remove("out")
    w.must("export", "--vectors", vectors, "--output", "out", *words)
    return files(w.folder / "out")


def quantising_before_and_after_gives_the_same_bytes(w):
    devices = [("cpu", 20)]
    if EMULATED.exists():
        devices.append(("cuda:0", 5))
    environment = dict(os.environ, CSPLADE_CUDA_PLUGIN=str(EMULATED))
    lines = (w.folder / "beir/corpus.jsonl").read_text().splitlines()[:30]
    (w.folder / "some.jsonl").write_text("\n".join(lines[:12] + ['{"_id": "x", "text": ""}'] + lines[12:]))
    exports = {"document": (["--format", "ciff"], ["--format", "anserini", "--shards", 2],
                            ["--format", "seismic"], ["--format", "ciff", "--target", "bmp"]),
               "query": (["--format", "anserini", "--side", "query"],
                         ["--format", "seismic", "--side", "query"])}
    sides = {"document": ("round:100", "ceil:37.3", "round:1.5", "round:20000", "round:1e9"),
             "query": ("ceil:10",)}
    for device, top_k in devices:
        for side, schemes in sides.items():
            words = ["--side", side, "--device", device, "--micro-batch-tokens", 64, "--top-k", top_k]
            for number, scheme in enumerate(schemes if device == "cpu" else schemes[:2]):
                name = f"v.{('h5', 'jsonl')[number % 2]}"
                cut = words if number else words[:-2]  # all terms, too
                w.expect_exit(encode(w, name, *cut, source="some.jsonl", env=environment), 0)
                after = [export(w, name, *how, "--quant", scheme) for how in exports[side]]
                w.expect_exit(encode(w, name, *cut, "--quant", scheme, source="some.jsonl",
                                     env=environment), 0)
                before = [export(w, name, *how) for how in exports[side]]
                for how, a, b in zip(exports[side], after, before):
                    w.expect(len(a) >= 3 and a.keys() == b.keys(), f"{device} {scheme} {how}: {a.keys()}")
                    for file in a:
                        w.expect(a[file] == b[file], f"{device} {scheme} {how}: {file}")
                w.expect(export(w, name, *exports[side][0], "--quant", scheme) == before[0], "the same scheme")
    manifest = json.loads(export(w, "v.h5", "--format", "seismic", "--side", "query")["manifest.json"])
    w.expect(manifest["quantisation"]["scheme"] == "ceil" and manifest["quantisation"]["scale"] == 10, manifest)


def the_scale_is_the_contracts_unless_another_is_named(w):
    model = with_contract(w, "fifty", quant_scale=50.0)
    result = w.expect_exit(encode(w, "v.jsonl", "--quant", "round", model=model), 0)
    w.expect("overridden" not in result.stderr, result.stderr)
    fifty, header = rows(w, "v.jsonl")
    quantised = header["quantisation"]
    w.expect((quantised["scheme"], quantised["scale"]) == ("round", 50) and quantised["dropped"] > 0,
             quantised)
    w.expect(f"{quantised['dropped']} weights have an impact of 0" in result.stderr, result.stderr)
    w.expect(f"round:50, {quantised['dropped']} weights became 0" in w.run("info", "v.jsonl").stdout, "info")
    result = w.expect_exit(encode(w, "w.jsonl", "--quant", "round:70", model=model), 0, "50, is overridden")
    w.expect(rows(w, "w.jsonl")[1]["quantisation"]["scale"] == 70, "another scale")
    # Exports of weights obey it, too; all impacts are those of encode.
    w.expect_exit(encode(w, "f.jsonl", model=model), 0)
    whole = rows(w, "f.jsonl")[0]
    lines = export(w, "f.jsonl", "--format", "anserini")["docs/docs-00000-of-00001.jsonl"].splitlines()
    w.expect({row["id"]: row["vector"] for row in map(json.loads, lines)} == fifty, "export's standard")
    w.expect(export(w, "f.jsonl", "--format", "ciff", "--quant", "round") ==
             export(w, "f.jsonl", "--format", "ciff", "--quant", "round:50"), "round")
    for name, vector in whole.items():
        expected = {t: int(v * 50 + 0.5) for t, v in vector.items()}
        w.expect(all(abs(v * 50 % 1 - 0.5) < 1e-4 or expected[t] == fifty[name].get(t, 0)
                     for t, v in vector.items()), name)
    for scheme, code, message in (("u8-max", 2, "csplade export"), ("half", 2, "half"),
                                  ("round:", 2, "round:"), ("ceil:0", 2, "above 0")):
        w.expect_exit(encode(w, "v.jsonl", "--quant", scheme), code, message)


def a_weight_that_is_infinite_is_named(w):
    model = with_contract(w, "huge", logit_scale=1e6)
    path = w.folder / "huge/model.safetensors"
    # The last norm's 32 weights: hidden states are finite, logits times the contract's scale are not.
    path.write_bytes(path.read_bytes()[:-128] + struct.pack("<f", 1e37) * 32)
    for words in ([], ["--quant", "round"], ["--quant", "ceil:1e-30", "--top-k", 3]):
        w.expect_exit(encode(w, "v.h5", *words, model=model), 4, "text d0: the weight of term", "not finite")


def search_adds_up_impacts(w):
    for side, name in (("document", "d"), ("query", "q")):
        for kind in ("h5", "jsonl"):
            w.expect_exit(encode(w, f"{name}.{kind}", "--side", side, "--quant", "round:30"), 0)
    w.must("search", "--index", "d.h5", "--queries", "q.jsonl", "--output", "a.txt")
    w.must("search", "--index", "d.jsonl", "--queries", "q.h5", "--output", "b.txt")
    run = (w.folder / "a.txt").read_text()
    w.expect(run == (w.folder / "b.txt").read_text(), "both forms")
    documents, queries = rows(w, "d.jsonl")[0], rows(w, "q.jsonl")[0]
    for line in run.splitlines():
        q, _, d, _, score, _ = line.split()
        exact = sum(v * documents[d].get(t, 0) for t, v in queries[q].items())
        w.expect(float(score) == exact, f"{line}: {exact}")
    # A query text is quantised as the documents are: the scores of its vector in the file.
    text = json.loads((w.folder / "beir/queries.jsonl").read_text().splitlines()[3])["text"]
    w.must("search", "--index", "d.h5", "--model", "model", "--query", text, "--output", "t.txt",
           "--threads", 2)
    scores = [[line.split()[2:5] for line in text.splitlines() if line.startswith(start)]
              for text, start in ((run, "q3 "), ((w.folder / "t.txt").read_text(), "q1 "))]
    w.expect(scores[0] == scores[1] and scores[0], f"{scores[0][:2]} {scores[1][:2]}")
    # Impacts of one side and weights of the other are added up just so; parts must be alike.
    w.expect_exit(encode(w, "f.h5", "--side", "query"), 0)
    w.must("search", "--index", "d.h5", "--queries", "f.h5", "--output", "m.txt")
    w.expect_exit(encode(w, "e.h5", "--quant", "round:31", source="beir"), 0)
    w.expect_exit(w.run("search", "--index", "d.h5", "--index", "e.h5", "--queries", "q.h5", "--output", "x"),
                  3, "round:30", "round:31")
    for i in range(2):
        w.expect_exit(encode(w, f"s{i}.h5", "--shard", f"{i}/2", "--quant", f"ceil:{i + 6}"), 0)
    w.expect_exit(w.run("export", "--vectors", "s0.h5", "--vectors", "s1.h5", "--format", "ciff", "--output",
                        "x"), 3, "s0.h5 is quantised by ceil:6, s1.h5 by ceil:7")
    for scheme in ("round:31", "ceil:30", "none", "u8-max", "round"):
        w.expect_exit(w.run("export", "--vectors", "d.h5", "--format", "ciff", "--output", "x", "--quant",
                            scheme), 2, "d.h5 holds impacts of round:30, which are exported as they are")
    w.expect(not (w.folder / "x").exists(), "a refused export left something")


def a_killed_encoding_goes_on(w):
    """Parts have 8,192 rows: many tiny texts make two. Counts are of both."""
    with (w.folder / "many.tsv").open("w") as stream:
        stream.writelines(f"m{i}\t{'abcdefghij'[i % 10]}{i % 7}\n" for i in range(10_000))
    words = ["encode", "-m", "model", "-i", "many.tsv", "--threads", 2, "--quant", "round:5"]
    w.must(*words, "-o", "whole.h5")
    w.must(*words, "-o", "whole.jsonl")
    parts = w.folder / "part.h5.parts"
    process = w.start(*words, "-o", "part.h5")
    while process.poll() is None and not (parts / "part-00000.h5").exists():
        time.sleep(0.001)
    process.kill()
    process.communicate()
    if not parts.exists():
        print("skipped: it ended before it could be killed")
        return
    saved = shutil.copytree(parts, w.folder / "saved")
    w.expect_exit(w.run(*words, "-o", "part.h5"), 0, "8192 of 10000 texts were there")
    w.expect((w.folder / "part.h5").read_bytes() == (w.folder / "whole.h5").read_bytes(), "bytes")
    counts = rows(w, "whole.jsonl")[1]["quantisation"]
    w.expect(counts["dropped"] > 0 and f"{counts['dropped']} weights became 0" in
             w.run("info", "part.h5").stdout, counts)
    # Parts of another scheme are not taken.
    shutil.copytree(saved, parts)
    w.expect_exit(w.run(*words[:-1], "round:3", "-o", "part.h5"), 0, "parts of another encoding")
    w.expect("round:3," in w.run("info", "part.h5").stdout, "the new scale")


def shards_of_impacts_are_merged(w):
    """Scheme, scale and counts of all shards are those of the whole; another scale is no shard of it."""
    for i in range(3):
        for scale, name in ((100, "i"), (50, "j")):
            w.expect_exit(encode(w, f"{name}{i}.jsonl", "--quant", f"ceil:{scale}", "--shard", f"{i}/3"), 0)
    parts = [rows(w, f"i{i}.jsonl") for i in range(3)]
    for output in ("all.jsonl", "all.h5"):
        w.expect_exit(w.run("merge", "--output", output, *(f"i{i}.jsonl" for i in range(3))), 0)
    got, header = rows(w, "all.jsonl")
    w.expect(got == {**parts[0][0], **parts[1][0], **parts[2][0]} and len(got) == 100, "other impacts")
    want = {"scheme": "ceil", "scale": 100.0,
            **{key: sum(part[1]["quantisation"][key] for part in parts) for key in ("dropped", "clipped")}}
    w.expect(header["quantisation"] == want, header)
    h5, jsonl = (export(w, f"all.{kind}", "--format", "ciff") for kind in ("h5", "jsonl"))
    same = {name for name in h5 if name != "manifest.json"}  # which names the file
    w.expect(same and all(h5[name] == jsonl[name] for name in same), [n for n in same if h5[n] != jsonl[n]])
    w.expect_exit(w.run("merge", "--output", "no.h5", "i0.jsonl", "j1.jsonl", "i2.jsonl"), 3,
                  "j1.jsonl is of other quantisation than i0.jsonl")
    w.expect(not (w.folder / "no.h5").exists(), "something is written")


if __name__ == "__main__":
    sys.exit(run_tests([
        quantising_before_and_after_gives_the_same_bytes,
        the_scale_is_the_contracts_unless_another_is_named,
        a_weight_that_is_infinite_is_named,
        search_adds_up_impacts,
        a_killed_encoding_goes_on,
        shards_of_impacts_are_merged,
    ]))
