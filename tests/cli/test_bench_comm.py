#!/usr/bin/env python3
"""csplade bench comm, alone and on ranks over TCP, over MPI and on emulated devices: the columns of
nccl-tests, and no wrong value. Times are not looked at. Arguments: the program, the source folder."""
import json
import os
import subprocess
import sys
from pathlib import Path

from ranks_job import free_port, mpirun_command

PROGRAM = Path(sys.argv[1]).resolve()
EMULATED = PROGRAM.parent / "emulated/libcsplade_cuda_emu.so"
OPERATIONS = ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "exchange"]
COLUMNS = "size count type redop root time algbw busbw #wrong".split()
# Sizes at which other ways begin: 8 KiB of a reduce, 64 KiB of a broadcast; some are no multiple of
# anything.
WORDS = ["bench", "comm", "--steps", "2", "--max-bytes", "300000", "--factor", "6"]
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)
        print(f"FAILED: {what}", flush=True)


def on_ranks(size, *words, own=None, env=None):
    port, processes = free_port(), []
    for rank in range(size):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": str(port)}
        processes.append(subprocess.Popen(
            [PROGRAM, *WORDS, *words, *(own or {}).get(rank, [])], env={**os.environ, **variables, **(env or {})},
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return [(*process.communicate(timeout=120), process.returncode) for process in processes]


def busy(name, ranks):
    return {"all_reduce": 2 * (ranks - 1) / ranks, "broadcast": 1}.get(name, (ranks - 1) / ranks)


def check_rows(text, ranks, transport, device):
    rows = [json.loads(line) for line in text.splitlines()]
    expect(list(dict.fromkeys(row["what"] for row in rows)) == OPERATIONS, f"{ranks}: {text}")
    for row in rows:
        size, count, name = row["size"], row["count"], row["what"]
        expect(row["case"] == "comm" and row["ranks"] == row["local_ranks"] == ranks and
               row["transport"] == transport and row["device"] == device and row["wrong"] == 0, row)
        parts = ranks if name in ("all_gather", "reduce_scatter") else 1
        expect(name == "exchange" or size == 4 * count * parts, row)
        expect(row["time_us"] > 0 and
               abs(row["algbw"] - size / row["time_us"] * 1e-3) <= 1e-4 * row["algbw"] and
               abs(row["busbw"] - busy(name, ranks) * row["algbw"]) <= 1e-4 * row["algbw"], row)
        expect((row["redop"] == "sum") == (name in ("all_reduce", "reduce_scatter", "exchange")) and
               row["root"] == (0 if name == "broadcast" else -1), row)
    sizes = [row["size"] for row in rows if row["what"] == "all_reduce"]
    expect(sizes == [8 * 6**i // 4 * 4 for i in range(6)], sizes)


def main():
    alone = subprocess.run([PROGRAM, *WORDS, "--device", "cpu", "--format", "json"], text=True,
                           capture_output=True)
    expect(alone.returncode == 0, alone.stderr)
    check_rows(alone.stdout, 1, "alone", "cpu")
    for size in (2, 3):
        results = on_ranks(size, "--device", "cpu", "--format", "json")
        expect(all(code == 0 for _, _, code in results), results)
        expect(not any(out for out, _, _ in results[1:]), "only rank 0 prints")
        check_rows(results[0][0], size, "tcp", "cpu")
    out, err, code = on_ranks(2, "--device", "cpu", "--tiny")[0]
    lines = [line.split() for line in out.splitlines() if not line.startswith("#")]
    expect(code == 0 and [line[1:].split() for line in out.splitlines() if "#wrong" in line] ==
           [COLUMNS] * 5, f"{out}{err}")
    expect(lines and all(len(line) == 9 and int(line[0]) <= 4096 and line[8] == "0" for line in lines), out)
    if mpirun_command(2) is not None:
        command, env = mpirun_command(2)
        result = subprocess.run([*command, PROGRAM, *WORDS, "--device", "cpu", "--format", "json"],
                                env=env, text=True, capture_output=True, timeout=120)
        expect(result.returncode == 0, result.stderr)
        check_rows(result.stdout, 2, "mpi", "cpu")
    if EMULATED.exists():
        results = on_ranks(2, "--device", "cuda", "--format", "json", "--tiny",
                           env={"CSPLADE_CUDA_PLUGIN": str(EMULATED), "CSP_EMU_DEVICES": "2"})
        expect(all(code == 0 for _, _, code in results), results)
        expect('"device":"cuda:0","transport":"nccl"' in results[0][0], results[0][0])
        results = on_ranks(2, "--device", "cuda", env={"CSPLADE_CUDA_PLUGIN": str(EMULATED), "CSP_EMU_DEVICES": "1"})
        expect(all(code == 5 for _, _, code in results) and "wants cuda:1, which is not there" in results[1][1]
               and "rank 1 (process " in results[0][1], results)
    none = subprocess.run([PROGRAM, "bench", "comm", "--min-bytes", "100", "--max-bytes", "8"], text=True,
                          capture_output=True)
    expect(none.returncode == 2 and "--min-bytes 100 is above --max-bytes 8" in none.stderr, none.stderr)
    for out, err, code in on_ranks(2, own={1: ["--warmup", "3"]}):
        expect(code == 2 and "the options" in err and "--warmup 3" in err, f"{code} {err}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
