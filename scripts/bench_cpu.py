#!/usr/bin/env python3
"""Runs scripts/bench_torch_step.py and `csplade bench step` in turn and prints a table.

One process a measurement, A B A B: PyTorch with the standard allocator, PyTorch with one that keeps its
memory (glibc told never to map or trim), csplade. Each figure is the median over the rounds of each
process's own median step; the ratio is against the better PyTorch. Peak memory is the process's.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
           "MALLOC_TOP_PAD_": str(64 << 20)}


def cpu_name():
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def last_json(command, env=None, key=None):
    out = subprocess.run(command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE,
                         text=True, check=True).stdout
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return rows if key is None else [r for r in rows if r.get("case") == key or r.get("side") == key]


def measure(args, vocab, lora):
    flags = ["--vocab", str(vocab), "--threads", str(args.threads)] + (["--lora"] if lora else [])
    torch_command = [sys.executable, os.path.join(HERE, "bench_torch_step.py"), "--steps", "3"] + flags
    ours_command = [args.csplade, "bench", "step", "-o", "json", "--steps", "5"] + flags
    sides = {"torch": [], "torch, keeping allocator": [], "csplade": []}
    share = []
    for _ in range(args.rounds):
        sides["torch"] += last_json(torch_command, key="torch")
        sides["torch, keeping allocator"] += last_json(torch_command, KEEPING, "torch")
        rows = last_json(ours_command)
        sides["csplade"] += [r for r in rows if r["case"] == "train"]
        share += [r["share_of_sgemm"] for r in rows if r["case"] == "step"]
    result = {name: (statistics.median(r["tokens_per_s"] for r in rows),
                     max(r["peak_mb"] for r in rows)) for name, rows in sides.items()}
    return result, statistics.median(share)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csplade", required=True)
    parser.add_argument("--vocab", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()

    import peft
    import torch
    import transformers
    version = subprocess.run([args.csplade, "--version"], stdout=subprocess.PIPE, text=True).stdout
    print("%s, %s, %d threads. %s, PyTorch %s, transformers %s, PEFT %s.\n"
          % (datetime.date.today(), cpu_name(), args.threads, version.strip(), torch.__version__,
             transformers.__version__, peft.__version__))
    print("| V | training | side | tokens/s | peak MB | csplade is | share of sgemm |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for vocab in args.vocab or [32768, 128256]:
        for lora in (False, True):
            result, share = measure(args, vocab, lora)
            ours = result["csplade"]
            best, its_peak = max(v for k, v in result.items() if k != "csplade")
            least = min(v[1] for k, v in result.items() if k != "csplade")
            for name, (rate, peak) in result.items():
                text = ("%.2f x the better PyTorch, %.2f of its memory, %.2f of the least"
                        % (ours[0] / best, ours[1] / its_peak, ours[1] / least)
                        if name == "csplade" else "")
                print("| %d | %s | %s | %.0f | %.0f | %s | %s |"
                      % (vocab, "LoRA" if lora else "full", name, rate, peak, text,
                         "%.0f %%" % (100 * share) if name == "csplade" else ""), flush=True)
    head = [line for line in subprocess.run(
        [args.csplade, "bench", "head", "--threads", str(args.threads)], stdout=subprocess.PIPE,
        text=True).stdout.splitlines()]
    print("\n```\n%s\n```" % "\n".join(head))


if __name__ == "__main__":
    main()
