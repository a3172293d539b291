#!/usr/bin/env python3
"""csplade as on a machine with a GPU, where auto takes it and bf16: training with evaluations, checkpoints that
go on, encoding, search, export. On an emulated device, or on the one of the library that CSPLADE_CUDA_PLUGIN
names, which gpu.sh does. Arguments: the program, the source folder, names of tests (all)."""
import json
import os
import subprocess
import sys
from pathlib import Path

from ranks_job import Job
from workspace import run_tests

EMULATED = Path(sys.argv[1]).parent / "emulated/libcsplade_cuda_emu.so"
AUTO = ["device.name=auto", "data.dev_qrels=beir/qrels/dev.tsv", "run.eval_steps=3", "eval.queries=10", "eval.pool=20",
        "adapt.max_steps=2", "adapt.batch.texts=4", "contrastive.max_steps=3", "contrastive.batch.queries=4",
        "run.save_steps=1"]
KINDS = {"lora": [*AUTO, "lora.r=4"], "full": AUTO}
LAST, MIDDLE = "contrastive-00000003.h5", "contrastive-00000001.h5"
ABSENT = {**os.environ, "CSPLADE_CUDA_PLUGIN": "/none/libcsplade_cuda.so"}
# 60 roundings to 8 bits on the way to a number of a model of two layers, were all in one direction; what is
# computed from other memory, or not at all, is off by more.
NEAR = 60 * 2.0 ** -9


def training_takes_the_device(w):
    """Both phases in bf16, near the CPU's curve, evaluated and written beside; and goes on to the same bytes."""
    for name, settings in KINDS.items():
        result = w.expect_exit(w.train(name, *settings), 0)
        for phase in ("adapt", "contrastive"):
            w.expect(f"phase {phase} on cuda:0 in bf16" in result.stderr, result.stderr)
        w.expect_exit(w.train("cpu", *settings[1:]), 0)
        for ours, cpu in zip(w.metrics(name), w.metrics("cpu")):
            w.expect(ours.keys() == cpu.keys() and ours["step"] == cpu["step"], (ours, cpu))
            if "loss" in ours:
                w.expect(abs(ours["loss"] - cpu["loss"]) <= NEAR * cpu["loss"], (name, ours["loss"], cpu["loss"]))
        w.expect(any("eval/nDCG@10" in row for row in w.metrics(name)), "nothing was evaluated")
        whole = w.checkpoint(name, LAST)
        for later in w.checkpoints(name):
            if later > MIDDLE:
                (w.folder / name / "checkpoints" / later).unlink()
        (w.folder / name / "checkpoints/LATEST").write_text(MIDDLE)
        w.expect_exit(w.train(name, *settings), 0, f"going on from {name}/checkpoints/{MIDDLE}")
        w.expect(w.checkpoint(name, LAST) == whole, f"{name}: not the same bytes when it goes on")
        w.remove("cpu")


def what_it_wrote_is_read_anywhere(w):
    """Encoded on the device and on the CPU: near; exported with and without a device: the same bytes."""
    texts = (w.folder / "beir/corpus.jsonl").read_text().splitlines(keepends=True)[:20]
    (w.folder / "some.jsonl").write_text("".join(texts))
    for name in KINDS:
        model, weights = f"{name}/checkpoints/{LAST}", {}
        for device in ("auto", "cpu"):
            result = w.must("encode", "-m", model, "-i", "some.jsonl", "-o", f"{device}.jsonl", "--device", device)
            w.must("encode", "-m", model, "-i", "some.jsonl", "-o", f"{device}.h5", "--device", device)
            lines = [json.loads(line) for line in (w.folder / f"{device}.jsonl").read_text().splitlines()]
            weights[device] = [row["vector"] for row in lines if "id" in row]
            w.expect(result.stdout.startswith("rows 20\n"), result.stdout)
        for ours, cpu in zip(*weights.values()):
            apart = sum(abs(ours.get(t, 0) - cpu.get(t, 0)) for t in {*ours, *cpu})
            w.expect(len(cpu) > 5 and apart <= NEAR * sum(cpu.values()), f"{name}: {apart} of {sum(cpu.values())}")
        w.must("search", "--index", "auto.h5", "--model", model, "--query", "bala cede", "--output", "r.txt",
               "--device", "auto")
        w.expect(len((w.folder / "r.txt").read_text().splitlines()) > 5, "search finds nothing")
        for folder, environment in (("here", None), ("there", ABSENT)):
            w.must("export", "--model", model, "-f", "hf", "-o", f"{name}.{folder}", env=environment)
        here, there = ((w.folder / f"{name}.{f}/model.safetensors").read_bytes() for f in ("here", "there"))
        w.expect(here == there, f"{name}: the export depends on the device")


def a_plan_is_of_the_device(w):
    numbers = json.loads(w.must("estimate", "config.yaml", "device.name=auto", "-o", "json").stdout)
    w.expect(numbers["weights_bytes"] < 3 * numbers["parameters"], f"not in bf16: {numbers}")
    numbers = json.loads(w.must("estimate", "config.yaml", "-o", "json").stdout)
    w.expect(numbers["weights_bytes"] >= 4 * numbers["parameters"], f"the CPU in bf16: {numbers}")


def ranks_take_a_device_each(w):
    if os.environ["CSPLADE_CUDA_PLUGIN"] != str(EMULATED):
        print("skipped: a machine may have one device only")
        return
    for count, code, words in ((2, 0, "2 devices joined by NCCL"), (1, 2, "start one rank for each device")):
        os.environ["CSP_EMU_DEVICES"] = str(count)
        results = Job(w, 2, "two", *AUTO, "run.phases=[contrastive]").wait()
        for result in results:
            w.expect(result.returncode == code, f"{count} devices: {result.returncode} {result.stderr}")
        w.expect(words in results[0].stderr, results[0].stderr)
        w.remove("two")
    del os.environ["CSP_EMU_DEVICES"]


def main():
    if "CSPLADE_CUDA_PLUGIN" not in os.environ and EMULATED.exists():
        os.environ["CSPLADE_CUDA_PLUGIN"] = str(EMULATED)
    if os.environ.get("CSPLADE_CUDA_PLUGIN") == str(EMULATED):
        KINDS.pop("full")  # the README's steps do that, which test_docs.py follows
    doctor = subprocess.run([sys.argv[1], "doctor"], capture_output=True, text=True, check=False)
    if "auto       takes cuda:0" not in doctor.stdout:
        print("skipped: no device")
        return 77
    return run_tests([training_takes_the_device, what_it_wrote_is_read_anywhere, a_plan_is_of_the_device,
                      ranks_take_a_device_each])


if __name__ == "__main__":
    sys.exit(main())
