#!/usr/bin/env python3
"""docs/scaling.md: its tables are those of the script, its simulation runs, and the model obeys what is
known of it. Arguments: the program, the source folder."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from workspace import run_tests

SCRIPTS = Path(sys.argv[2]).resolve() / "scripts"


def script(w, name, *words):
    # Open MPI leaves memory of its own to the end of the process.
    result = subprocess.run([sys.executable, SCRIPTS / name, *map(str, words)], cwd=w.folder, text=True,
                            capture_output=True, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    w.expect(result.returncode == 0, f"{name} {words}: {result.stderr}")
    return result.stdout


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def the_page_has_the_tables_of_the_script(w):
    script(w, "scaling_model.py", "--check")


def the_model_obeys_what_is_known(w):
    model = load("scaling_model")
    small, large, full, _ = model.models()
    # Of Llama-3.2-1B and 3.1-8B with adapters of rank 16 on all seven matrices.
    w.expect((small.blocks, small.head, small.adapters) == (973078528, 262668288, 11272192),
             (small.blocks, small.head, small.adapters))
    w.expect((large.all, large.adapters) == (8029995008, 41943040), (large.all, large.adapters))
    for m in model.models():
        w.expect(model.step(m, 1, 1000.0)["gradients"] == 0, "one GPU reduces nothing")
        shares = [model.efficiency(m, ranks, 1000.0) for ranks in model.RANKS]
        w.expect(all(0.5 < b < a <= 1 for a, b in zip(shares[1:], shares[2:])), shares)
        w.expect(model.efficiency(m, 1024, 1000.0, model.BLOCK) > shares[-1], "blocks help")
    # 64 queries a rank of 50 terms on 8 ranks: 8 bytes out and 4 back of each entry.
    entries = 8 * 64 * 50
    out = model.queries_out(8, 50) - model.latency(8)
    w.expect(abs(out - 8 * entries * 7 / 8 / model.value("nvlink")) < 1e-12, out)
    w.expect(model.gradients(full, 8) > model.gradients(small, 8), "adapters are smaller")


def real_lengths_are_shared_out(w):
    rows = [json.loads(line) for line in script(
        w, "simulate_imbalance.py", "--csplade", w.program, "--model", "tok", "--data", "beir", "--ranks", 1, 2, 8,
        "--queries", 8, "--group", 4, "--steps", 5, "--json").splitlines()]
    w.expect([row["ranks"] for row in rows] == [1, 2, 8], rows)
    for row in rows:
        w.expect(row["shared"] >= 1 and row["by_tokens"] >= 1 and
                 (row["ranks"] == 1) == (row["as_they_come"] == 1.0), row)
        w.expect(row["ranks"] == 1 or row["by_tokens"] <= row["shared"] < row["as_they_come"], row)
    table = script(w, "simulate_imbalance.py", "--csplade", w.program, "--model", "tok", "--data", "beir",
                   "--ranks", 2, "--queries", 8, "--steps", 2)
    w.expect("100 documents of" in table and "| 2 | 2 | +" in table, table)


def a_measurement_is_compared(w):
    """With a collective that takes 10 ms for 1 MB a step of a second that sends 2 MB takes 1.02."""
    rows = [{"kind": "full", "way": way, "step_s": s, "sent_mb": sent}
            for way, s, sent in (("one", 1.0, 0), ("TCP", 1.25, 2.0))]
    rows += [{"what": what, "transport": "tcp", "ranks": 2, "size": size, "time_us": size / 100}
             for what in ("all_reduce", "broadcast") for size in (1000, 1000000, 4000000)]
    (w.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = script(w, "scaling_model.py", "--cpu", "rows.jsonl")
    w.expect("| full | 2, TCP | 2.00 | 1.000 | 98.0 % | 80.0 % |" in out, out)


def ranks_are_measured_beside_one(w):
    """The bench of ranks from end to end, on as little as there is."""
    small = ["--csplade", w.program, "--data", "beir", "--repeats", 1, "--steps", 1, "--queries", 2, "--vocab", 320,
             "--hidden", 32, "--layers", 1, "--comm-bytes", 10000]
    out = script(w, "bench_ranks.py", *small)
    ways = ["TCP", "MPI"] if shutil.which("mpirun") else ["TCP"]
    for kind in ("full", "LoRA"):
        for way in ways:
            w.expect(re.search(rf"\| {kind} \| 2 x 1, {way} \| [\d.]+ \(.*\) \| [\d.]+ % \| [\d.]+ % \| [\d.]+ \| "
                               r"[\d.]+ \|", out) and f"| {kind} | 2, {way} | " in out, out)
    w.expect("At least 90 % of one rank: all" in out and out.count("| exchange | ") >= 1, out)


if __name__ == "__main__":
    sys.exit(run_tests([
        the_page_has_the_tables_of_the_script,
        the_model_obeys_what_is_known,
        real_lengths_are_shared_out,
        a_measurement_is_compared,
        ranks_are_measured_beside_one,
    ]))
