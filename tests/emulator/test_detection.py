#!/usr/bin/env python3
"""The emulator sees what it is there to see. Runs the sample programs, right and with each planted
mistake, in one build, and compares what comes out with the table below.

    test_detection.py BUILD KERNELS TILES HOST NCCL DEVICE    BUILD: plain, asan or tsan; the samples

Right samples must be silent under every schedule. A mistake must be told as the table says: by at
least one of the seeds tried where it is followed by "?", else by every one. With clocks of warps,
the thread sanitizer must still tell every race but those within a warp.
"""
import os
import subprocess
import sys

RIGHT_SEEDS, SEEDS = range(1, 5), range(1, 7)

# What is printed: "numbers" by the sample itself, "emulator", or a sanitizer's report.
TELLS = {
    "numbers": "wrong numbers",
    "emulator": "emulator: ",
    "poison": "use-after-poison",
    "index": "out of bounds for type",
    "misaligned": "misaligned address",
    "race": "WARNING: ThreadSanitizer: data race",
    "crash": "touched device memory",
    "invalid": "invalid resource handle",
    "argument": "invalid argument",
    "segv": "AddressSanitizer: SEGV",
    "none": None,  # this build cannot see it: it must look right
}

# program, case, mistake: plain, asan, tsan. "any" may be told in any way, and "?" may be missed.
TABLE = [
    ("kernels", "norm", 1, "numbers", "numbers", "race"),
    ("kernels", "norm", 2, "numbers?", "numbers?", "race"),
    ("kernels", "row_max", 1, "numbers?", "numbers?", "race"),
    ("kernels", "row_max", 2, "emulator", "index", "emulator"),
    ("kernels", "row_max", 3, "numbers?", "index", "race"),
    ("kernels", "row_max", 4, "numbers?", "numbers?", "numbers?"),
    ("kernels", "row_max", 5, "numbers?", "poison", "numbers?"),
    ("kernels", "product", 1, "numbers", "poison", "race"),
    ("kernels", "product", 2, "numbers?", "poison?", "race"),
    ("kernels", "product", 3, "numbers", "poison", "numbers"),
    ("kernels", "product", 4, "numbers", "poison", "numbers"),
    ("kernels", "product", 5, "none", "poison", "none"),
    ("kernels", "product", 6, "emulator", "poison", "emulator"),
    ("kernels", "product", 7, "emulator", "emulator", "emulator"),
    ("kernels", "product", 8, "numbers", "numbers", "numbers"),
    ("kernels", "product", 9, "numbers", "numbers", "numbers"),
    ("kernels", "exchange", 1, "numbers", "numbers", "race"),
    ("kernels", "exchange", 2, "numbers", "numbers", "race"),
    ("kernels", "count", 1, "none", "none", "race"),
    ("kernels", "count", 2, "none", "none", "race"),
    ("kernels", "count", 3, "none", "none", "race"),
    ("kernels", "count", 4, "none", "none", "race"),
    ("kernels", "count", 5, "numbers", "numbers", "numbers"),
    ("kernels", "bounds", 1, "numbers", "poison", "numbers"),
    ("kernels", "bounds", 2, "emulator", "poison", "emulator"),
    ("kernels", "bounds", 3, "any", "misaligned", "any"),
    ("kernels", "bounds", 4, "emulator", "poison", "emulator"),
    *[("kernels", "matrices", n, "emulator", "emulator", "emulator") for n in range(1, 5)],
    *[("kernels", "rules", n, "emulator", "emulator", "emulator") for n in range(1, 11)],
    ("tiles", "tiles", 1, "emulator", "emulator", "any"),
    ("tiles", "tiles", 2, "emulator", "emulator", "any"),
    ("tiles", "tiles", 3, "emulator", "emulator", "emulator"),
    *[("tiles", "tiles", n, "numbers", "numbers", "numbers") for n in range(4, 6)],
    *[("tiles", "tiles", n, "emulator", "emulator", "emulator") for n in range(6, 9)],
    ("tiles", "tiles", 9, "any", "any", "race"),
    ("tiles", "tiles", 10, "emulator", "emulator", "any"),
    *[("tiles", "tiles", n, "emulator", "emulator", "emulator") for n in range(11, 13)],
    ("tiles", "tiles", 13, "emulator?", "emulator?", "emulator?"),
    ("tiles", "tiles", 14, "emulator", "emulator", "emulator"),
    ("tiles", "tiles", 15, "numbers", "numbers", "numbers"),
    *[("tiles", "tiles", n, "emulator", "emulator", "emulator") for n in range(16, 19)],
    ("host", "streams", 1, "numbers?", "numbers?", "race"),
    ("host", "streams", 2, "numbers", "numbers", "numbers"),
    ("host", "streams", 3, "numbers", "numbers", "any"),
    ("host", "streams", 4, "numbers?", "numbers?", "race"),
    ("host", "memory", 1, "crash", "segv", "crash"),
    ("host", "memory", 2, "crash", "segv", "crash"),
    ("host", "memory", 3, "numbers", "poison", "numbers"),
    ("host", "memory", 4, "emulator", "emulator", "emulator"),
    ("host", "memory", 5, "emulator", "emulator", "emulator"),
    ("host", "graph", 1, "numbers?", "numbers?", "race"),
    ("host", "graph", 2, "numbers", "poison", "numbers"),
    ("host", "gemm", 1, "emulator", "emulator", "emulator"),
    ("host", "gemm_bf16", 1, "numbers", "numbers", "numbers"),
    *[("host", "gemm_lt_bias", n, "emulator", "emulator", "emulator") for n in range(1, 3)],
    *[("host", "gemm_lt_bias", n, "numbers", "numbers", "numbers") for n in range(3, 7)],
    ("host", "spmm", 1, "emulator", "emulator", "emulator"),
    ("nccl", "ranks", 1, "numbers?", "numbers?", "race"),
    ("nccl", "ranks", 2, "numbers?", "numbers?", "any"),
    ("nccl", "ranks", 3, "emulator", "emulator", "emulator"),
    ("nccl", "ranks", 4, "numbers", "numbers", "any"),
    *[("nccl", "ranks", n, "emulator", "emulator", "emulator") for n in range(5, 9)],
    *[("device", "thread", n, "emulator", "emulator", "emulator") for n in range(1, 3)],
    ("device", "timing", 1, "invalid", "invalid", "invalid"),
    *[("device", "shared", n, "argument", "argument", "argument") for n in range(1, 3)],
    ("device", "shared", 3, "emulator", "emulator", "emulator"),
    *[("device", "waits", n, "numbers", "numbers", "numbers") for n in range(1, 3)],
]

# Races between lanes of one warp.
WITHIN_WARP = [("kernels", "exchange", 1), ("kernels", "exchange", 2)]


def run(program, case, mistake, seed, order, warp_clocks=False):
    environment = {
        **os.environ, "CSP_EMU_SEED": str(seed), "CSP_EMU_ORDER": order,
        "CSP_EMU_WARP_CLOCKS": "1" if warp_clocks else "0",
        "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1:atexit_sleep_ms=0",
    }
    result = subprocess.run([program, case, str(mistake)], env=environment, capture_output=True,
                            text=True, errors="replace", timeout=120, check=False)
    return result.returncode, result.stderr


def told(status, text, tell):
    """Did the run end as tell says?"""
    if tell == "none":
        return status == 0
    if tell == "any":
        return status != 0
    return status != 0 and TELLS[tell] in text


def main():
    build, programs = sys.argv[1], dict(zip(("kernels", "tiles", "host", "nccl", "device"), sys.argv[2:]))
    column = 3 + ["plain", "asan", "tsan"].index(build)
    failures, runs = [], 0
    for name in programs:
        for seed, order in [*((s, "random") for s in RIGHT_SEEDS), (1, "forward"), (2, "reverse")]:
            status, text = run(programs[name], "all", 0, seed, order)
            runs += 1
            if status != 0:
                failures.append(f"{name}, right, seed {seed} {order}: status {status}\n{text[:1500]}")
    for row in TABLE:
        name, case, mistake, tell = row[0], row[1], row[2], row[column]
        rare = tell.endswith("?")
        tell = tell.rstrip("?")
        seen = missed = 0
        # A race is found in any schedule.
        for seed in SEEDS if rare else SEEDS[:1] if build == "tsan" else SEEDS[:2]:
            status, text = run(programs[name], case, mistake, seed, "random")
            runs += 1
            if told(status, text, tell):
                seen += 1
            else:
                missed += 1
                last = f"status {status}\n{text[:1500]}"
            if rare and seen:
                break
        if seen == 0 or (missed and not rare):
            failures.append(f"{name} {case}, mistake {mistake}: {tell} in {seen} of {seen + missed} runs, {last}")
    if build == "tsan":
        for name in programs:
            status, text = run(programs[name], "all", 0, 1, "random", warp_clocks=True)
            runs += 1
            if status != 0:
                failures.append(f"{name}, right, clocks of warps: status {status}\n{text[:1500]}")
        for name, case, mistake in [r[:3] for r in TABLE if r[column] == "race"]:
            status, text = run(programs[name], case, mistake, 1, "random", warp_clocks=True)
            runs += 1
            if told(status, text, "race") == ((name, case, mistake) in WITHIN_WARP):
                failures.append(f"{name} {case}, mistake {mistake}, clocks of warps: status {status}\n{text[:1500]}")
    for failure in failures:
        print(failure)
    print(f"test_detection: {build}: {runs} runs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
