#!/usr/bin/env python3
"""csplade export of models: checkpoints of tiny runs become folders that encode to the same vectors,
and adapters that a run starts from; what is refused. Arguments: the program, the source folder."""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = sys.argv[1]
failures = []

TOPICS = ("stars planets telescope orbit", "bread flour oven yeast", "river bridge water boat",
          "violin melody concert string", "forest pine needle moss", "engine wheel brake gear")


def run(*words, text=""):
    return subprocess.run([PROGRAM, *map(str, words)], input=text, capture_output=True, text=True,
                          check=False)


def expect(condition, what):
    if not condition:
        failures.append(what)


def must(*words):
    result = run(*words)
    if result.returncode != 0:
        raise SystemExit(f"{words}: {result.returncode} {result.stderr}")
    return result


def make_data(folder):
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as corpus, \
            (folder / "queries.jsonl").open("w") as queries, \
            (folder / "qrels/train.tsv").open("w") as qrels:
        qrels.write("query-id\tcorpus-id\tscore\n")
        for i in range(24):
            words = TOPICS[i % len(TOPICS)].split()
            text = f"the {words[i % 4]} and a {words[(i + 1) % 4]} number {i}"
            corpus.write(json.dumps({"_id": f"d{i}", "title": words[0], "text": text}) + "\n")
            queries.write(json.dumps({"_id": f"q{i}", "text": f"{words[2]} {i}"}) + "\n")
            qrels.write(f"q{i}\td{i}\t1\n")


def train(folder, name, *settings):
    """The checkpoint of a run of three steps."""
    config = folder / f"{name}.yaml"
    config.write_text(f"model: {{path: {folder}/model, passage_max_len: 16, query_max_len: 16}}\n"
                      f"data: {{corpus: {folder}/data, qrels: {folder}/data/qrels/train.tsv, "
                      "train_group_size: 1}\nbatch: {queries: 8}\n"
                      f"contrastive: {{max_steps: 3}}\nrun: {{output_dir: {folder}/{name}, "
                      "phases: [contrastive]}\ndevice: {name: cpu, threads: 1}\n")
    must("train", config, "-q", *settings)
    return folder / name / "checkpoints/contrastive-00000003.h5"


def vectors(model, folder, *options):
    """In float32 on any machine: what is compared is weights."""
    out = folder / "vectors.jsonl"
    out.unlink(missing_ok=True)
    must("encode", "--model", model, "--input", folder / "data", "--output", out, "--device", "cpu",
         "--threads", 1, "-q", *options)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    return [(r["id"], r["vector"]) for r in lines if "id" in r]


def distance(a, b):
    """The largest difference of a weight; a missing term weighs nothing."""
    expect([i for i, _ in a] == [i for i, _ in b], "ids differ")
    return max(abs(x.get(t, 0.0) - y.get(t, 0.0)) for (_, x), (_, y) in zip(a, b)
               for t in x.keys() | y.keys())


def dtypes(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}


def full_model(folder):
    """Whole weights: the folder is the checkpoint."""
    checkpoint = train(folder, "full")
    want = vectors(checkpoint, folder)
    expect(sum(len(v) for _, v in want) > 100, "the vectors are empty")
    result = must("export", "--model", checkpoint, "--format", "hf", "--output", folder / "hf")
    expect("parameters in f32" in result.stdout, result.stdout)
    expect(vectors(folder / "hf", folder) == want, "an f32 folder encodes differently")
    expect(dtypes(folder / "hf/model.safetensors") == {"F32"}, "dtype of f32")
    contract = json.loads((folder / "hf/csplade.json").read_text())
    expect(contract["passage_max_len"] == 16 and contract["variant"] == "causal", contract)
    expect((folder / "hf/tokenizer.json").read_bytes() ==
           (folder / "model/tokenizer.json").read_bytes(), "tokenizer.json")
    must("export", "--model", checkpoint, "-f", "hf", "--shard-bytes", 20000, "-o", folder / "parts")
    expect((folder / "parts/model.safetensors.index.json").exists(), "no shards")
    expect(vectors(folder / "parts", folder) == want, "shards encode differently")
    # Rounded weights: close, and said so in the files. 8 and 11 bits of the largest weights.
    for dtype, near in (("bf16", 2.0 ** -6), ("f16", 2.0 ** -9)):
        must("export", "--model", checkpoint, "-f", "hf", "--dtype", dtype, "-o", folder / dtype)
        expect(dtypes(folder / dtype / "model.safetensors") == {dtype.upper()}, f"dtype of {dtype}")
        config = json.loads((folder / dtype / "config.json").read_text())
        expect({"bf16": "bfloat16", "f16": "float16"}[dtype] in json.dumps(config), config)
        expect(0.0 < distance(vectors(folder / dtype, folder), want) <= near, f"{dtype} is not near")
    # The tokenizer of a checkpoint is the one it was trained with.
    text = "the stars and a telescope\n"
    expect(run("tokenize", "--model", checkpoint, text=text).stdout ==
           run("tokenize", "--model", folder / "model", text=text).stdout != "", "tokenize --model X.h5")
    return checkpoint


def adapter(folder):
    """Adapters: merged into a folder, or alone as PEFT has them."""
    checkpoint = train(folder, "lora", "lora.r=4", "optim.learning_rate=0.01")
    want = vectors(checkpoint, folder)
    merged = must("export", "--model", checkpoint, "-f", "hf", "-o", folder / "merged")
    expect("the adapter added" in merged.stdout, merged.stdout)
    # Adding the product to the weights first rounds otherwise than adding it to their outputs.
    expect(distance(vectors(folder / "merged", folder), want) <= 1e-5, "merged weights")
    expect(distance(vectors(folder / "model", folder, "--max-len", 16), want) > 1e-3,
           "the adapter changes nothing")
    must("export", "--model", checkpoint, "-f", "peft", "-o", folder / "peft")
    config = json.loads((folder / "peft/adapter_config.json").read_text())
    expect(config["r"] == 4 and config["base_model_name_or_path"] == f"{folder}/model", config)
    expect(not (folder / "peft/model.safetensors").exists(), "whole weights beside an adapter")
    must("export", "--model", checkpoint, "-f", "peft", "--base-name", "org/name", "-o",
         folder / "named")
    config = json.loads((folder / "named/adapter_config.json").read_text())
    expect(config["base_model_name_or_path"] == "org/name", config)
    # A run that starts from the folder begins with the same vectors: a learning rate of about 0.
    again = train(folder, "again", "lora.r=4", f"lora.init={folder}/peft", "lora.dropout=0",
                  "optim.learning_rate=1e-12")
    expect(distance(vectors(again, folder), want) <= 1e-5, "lora.init of an exported adapter")
    # The base at another place.
    (folder / "model").rename(folder / "moved")
    result = run("export", "--model", checkpoint, "-f", "hf", "-o", folder / "lost")
    expect(result.returncode == 1 and f"{folder}/model" in result.stderr, result.stderr)
    must("export", "--model", checkpoint, "--base", folder / "moved", "-f", "hf", "-o",
         folder / "found")
    expect((folder / "found/model.safetensors").read_bytes() ==
           (folder / "merged/model.safetensors").read_bytes(), "--base gives another model")
    (folder / "moved").rename(folder / "model")


def refusing(folder, checkpoint):
    model, out = ["--model", checkpoint], ["--output", folder / "no"]
    broken = folder / "broken.h5"
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    cases = [
        (["-f", "hf", *out], 2, "--format hf needs --model"),
        ([*model, "-f", "hf"], 2, "--output"),
        ([*model, "-f", "onnx", *out], 2, "onnx"),
        ([*model, "-f", "hf", "--dtype", "f64", *out], 2, "f64"),
        ([*model, "-f", "hf", "--vectors", "x.h5", *out], 2, "--vectors does not belong"),
        ([*model, "-f", "hf", "--quant", "none", *out], 2, "--quant does not belong"),
        ([*model, "-f", "ciff", *out], 2, "--model does not belong"),
        ([*model, "-f", "peft", "--dtype", "bf16", *out], 2, "--dtype does not belong"),
        ([*model, "-f", "hf", "--base-name", "x", *out], 2, "--base-name belongs"),
        ([*model, "-f", "peft", *out], 2, "no adapter"),
        (["--model", folder / "none.h5", "-f", "hf", *out], 1, "none.h5"),
        (["--model", broken, "-f", "hf", *out], 3, "broken.h5"),
        ([*model, "-f", "hf", "--output", folder / "hf"], 1, "holds a model already"),
    ]
    for words, code, message in cases:
        result = run("export", *words)
        expect(result.returncode == code and message in result.stderr,
               f"{words}: {result.returncode} {result.stderr}")
        expect(not (folder / "no").exists(), f"{words}: left something behind")
    vector_file = folder / "v.h5"
    must("encode", "--model", checkpoint, "--input", folder / "data", "--output", vector_file, "-q")
    result = run("tokenize", "--model", vector_file, text="x\n")
    expect(result.returncode == 3 and "no checkpoint" in result.stderr, result.stderr)
    result = run("tokenize", "--model", broken, text="x\n")
    expect(result.returncode == 3 and "broken.h5" in result.stderr, result.stderr)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder / "data")
        must("tokenize", "--train", "--vocab-size", 300, "--output", folder / "tok", folder / "data")
        must("init", "--tokenizer", folder / "tok", "--hidden", 32, "--layers", 2, "--heads", 4,
             "--output", folder / "model")
        checkpoint = full_model(folder)
        adapter(folder)
        refusing(folder, checkpoint)
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
