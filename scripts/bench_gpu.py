#!/usr/bin/env python3
"""csplade and PyTorch on one GPU, side by side: a table against goal and minimum.

    bench_gpu.py [--csplade PROGRAM] [CASE...]      all cases without one; docs/benchmarks/gpu.md says what they are
    bench_gpu.py --dry-run [CASE...]                which processes would run, and what they would be held to

One process a measurement, A B A B, for --rounds rounds; the sides of a case in turn. A figure is the median
over the rounds of each process's own median, and the spread goes from the least to the largest of those. Peers
that are not installed or do not fit into memory are named. Runs with the standard library; the peers need
torch (and for steps transformers and peft) in --python.
"""
import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
HEADS = ["tevatron-eager", "tevatron-compile", "naver-eager", "sentence_transformers-eager"]
ATTENTIONS = ["sdpa-flash", "sdpa-efficient", "sdpa-cudnn"]


def token_time(row):
    return row["seconds"] / row["tokens"]


# Goals and minima are those of the project's plan; see docs/benchmarks/gpu.md.
# Each case: csplade's cases, the peers' processes as (case, side), and the claims, each a function of
# (own rows by case, peers' rows by side) to a figure or None.
def own(case, figure, row=0):
    return lambda ours, theirs: ours[case][row][figure] if len(ours.get(case, [])) > row else None


def faster(side, own_seconds):
    """Their time over ours, both a token because a batch may have had to shrink; of several sides the best."""
    def figure(ours, theirs):
        times = [token_time(theirs[s]) for s in ([side] if isinstance(side, str) else side) if s in theirs]
        mine = own_seconds(ours)
        return min(times) / mine if times and mine else None
    return figure


def own_seconds(case, row=0, tokens=None):
    """Seconds of one token of ours."""
    def seconds(ours):
        rows = ours.get(case, [])
        return rows[row]["seconds"] / (tokens or rows[row]["tokens"]) if len(rows) > row else None
    return seconds


HEAD_TOKENS = 512 * 128
CASES = {
    "K1": (["K1"], [], [("head fwd / bare product", 1.12, 1.20, False, own("K1", "ratio_to_product")),
                        ("head fwd, fused / bare product", 1.05, 1.20, False, own("K1", "ratio_to_product", 1))]),
    "K2": (["K1"], [("K2", s) for s in HEADS], [
        ("head fwd, Tevatron eager / ours", 1.45, 1.3, True, faster("tevatron-eager", own_seconds("K1", 0, HEAD_TOKENS))),
        ("head fwd, Tevatron compiled / ours", 1.2, 1.05, True, faster("tevatron-compile", own_seconds("K1", 0, HEAD_TOKENS))),
        ("head fwd, naver / ours", 2.4, 1.8, True, faster("naver-eager", own_seconds("K1", 0, HEAD_TOKENS)))]),
    "K3": (["K3"], [], [
        ("head bwd / dense product, density 1", 1.15, 1.3, False, own("K3", "ratio_to_product", 0)),
        ("head bwd / dense product, density 0.1", 0.15, 0.25, False, own("K3", "ratio_to_product", 1)),
        ("head bwd / dense product, density 0.01", 0.03, 0.08, False, own("K3", "ratio_to_product", 2))]),
    "K4": (["K4"], [("K4", s) for s in HEADS + ["triton"]], [
        ("head fwd + bwd with dW, naver / ours", 4.5, 3, True, faster("naver-eager", own_seconds("K4", 0, HEAD_TOKENS))),
        ("head fwd + bwd with dW, Tevatron / ours", 2.8, 2, True, faster("tevatron-eager", own_seconds("K4", 0, HEAD_TOKENS))),
        ("head fwd + bwd with dW, Triton / ours", 1.3, 1.05, True, faster("triton", own_seconds("K4", 0, HEAD_TOKENS)))]),
    "K5": (["K5"], [("K4", "tevatron-eager")], [
        ("head memory a token, eager / ours", 50, 20, True,
         lambda ours, theirs: theirs["tevatron-eager"]["transient_mb"] / theirs["tevatron-eager"]["tokens"]
         / (ours["K5"][0]["transient_mb"] / HEAD_TOKENS)
         if "transient_mb" in theirs.get("tevatron-eager", {}) and "K5" in ours and ours["K5"][0]["transient_mb"] > 0
         else None)]),
    "K6": (["K6"], [("K6", "cusparse-0.1"), ("K6", "cusparse-0.01")], [
        ("cuSPARSE / ours, density 0.5", 1.3, 1.0, True, own("K6", "cusparse_over_own", 0)),
        ("cuSPARSE / ours, density 0.1", 1.3, 1.0, True, own("K6", "cusparse_over_own", 1)),
        ("cuSPARSE / ours, density 0.01", 1.3, 1.0, True, own("K6", "cusparse_over_own", 2)),
        ("torch's cuSPARSE / ours, density 0.1", 1.3, 1.0, True, faster("cusparse-0.1", own_seconds("K6", 1, HEAD_TOKENS))),
        ("torch's cuSPARSE / ours, density 0.01", 1.3, 1.0, True, faster("cusparse-0.01", own_seconds("K6", 2, HEAD_TOKENS)))]),
    "K7": (["K7"], [("K7", "eager"), ("K7", "torch-compile")], [
        ("both losses / two bare products", 1.15, 1.3, False, own("K7", "ratio_to_products")),
        ("both losses, eager / ours", 3, 2, True, faster("eager", own_seconds("K7"))),
        ("memory of both losses a token, eager / ours", 10, 5, True,
         lambda ours, theirs: theirs["eager"]["transient_mb"] / theirs["eager"]["tokens"]
         / (ours["K7"][0]["transient_mb"] / ours["K7"][0]["tokens"])
         if "transient_mb" in theirs.get("eager", {}) and "K7" in ours and ours["K7"][0]["transient_mb"] > 0 else None)]),
    "K8": (["K8"], [("K8", s) for s in ATTENTIONS], [
        ("attention fwd, share of copy bandwidth", 0.75, 0.55, True, own("K8", "share_of_copy", 0)),
        ("attention bwd, share of copy bandwidth", 0.65, 0.45, True, own("K8", "share_of_copy", 1)),
        ("attention fwd + bwd, best SDPA / ours", 1.5, 1.1, True, faster(ATTENTIONS, lambda ours: sum(r["seconds"] for r in ours["K8"]) / HEAD_TOKENS if "K8" in ours else None))]),
    "K9": (["K9"], [], [
        ("attention fwd of 512 tokens, TFLOP/s", 350, 220, True, own("K9", "tflop_per_s", 0)),
        ("attention bwd of 512 tokens, TFLOP/s", 250, 160, True, own("K9", "tflop_per_s", 1))]),
    "K10": (["K10"], [], [("%s, share of copy bandwidth" % what, 0.88, 0.75, True, own("K10", "share_of_copy", i))
                          for i, what in enumerate(("add + norm fwd", "add + norm bwd", "swiglu fwd", "swiglu bwd",
                                                    "adamw"))]),
    "K11": (["K11"], [], [("overhead of adapters, percent", 6, 12, False, own("K11", "overhead_percent"))]),
    "S1": (["S1"], [], [("1B LoRA step, share of the ideal", 0.85, 0.70, True, own("S1", "share_of_ideal")),
                        ("1B LoRA step, MFU", 0.65, 0.52, True, own("S1", "mfu"))]),
    "S2": (["S1"], [("S2", "padded-eager")], [
        ("1B LoRA step, padded PEFT / ours", 3.2, 2.2, True, faster("padded-eager", own_seconds("S1")))]),
    "S3": (["S1"], [("S3", "unpadded-compile")], [
        ("1B LoRA step, compiled without padding / ours", 1.25, 1.05, True,
         faster("unpadded-compile", own_seconds("S1")))]),
    "S4": (["S4"], [("S4", "padded-eager"), ("S4", "unpadded-eager")], [
        ("1B full step, padded / ours", 2.3, 1.7, True, faster("padded-eager", own_seconds("S4"))),
        ("1B full step, without padding / ours", 1.5, 1.2, True, faster("unpadded-eager", own_seconds("S4")))]),
    "S5": (["S5"], [], [("8B LoRA step, tokens/s", 18000, 15000, True, own("S5", "tokens_per_s", 1)),
                        ("8B LoRA step, share of the ideal", 0.82, 0.68, True, own("S5", "share_of_ideal", 1))]),
    "S6": (["S6"], [], [("8B LoRA step, base as it is / in 8 bits", 1.25, 1.15, True, own("S6", "speedup", 1))]),
    "S7": (["S7"], [], [("encoding with 1B, documents/s", 2800, 2300, True, own("S7", "docs_per_s"))]),
    "S8": (["S8"], [("S8", "toy-eager"), ("S8", "toy-compile")], [
        ("toy step, eager / ours", 5, 3, True, faster("toy-eager", own_seconds("S8"))),
        ("toy step, compiled / ours", 2, 1.3, True, faster("toy-compile", own_seconds("S8")))]),
    "M1": (["M1"], [("M1", "tevatron-eager")], [
        ("most queries of a step, ours / eager", 4, 2.5, True,
         lambda ours, theirs: ours["M1"][0]["queries"] / theirs["tevatron-eager"]["queries"]
         if "M1" in ours and theirs.get("tevatron-eager", {}).get("queries") else None)]),
}


def commands(args, case):
    """(ours or not, key, command) of each process of a case, in the order in which they take turns."""
    owns, peers, _ = CASES[case]
    tiny = ["--tiny"] if args.tiny else []
    for name in owns:
        yield True, name, shlex.split(args.csplade) + [
            "bench", name, "--device", "cpu" if args.device == "cpu" else "cuda:0", "--tune-products", "--format", "json",
            "--steps", "2" if args.tiny else "10", "--warmup", "1" if args.tiny else "3"] + tiny
    for name, side in peers:
        yield False, side, [args.python, os.path.join(HERE, "bench_gpu_torch.py"), name, side, "--device",
                            args.device] + tiny


def run(command, limit):
    """Rows that a process printed, or why there are none."""
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=limit,
                                check=False)
    except subprocess.TimeoutExpired:
        return None, "ran past %d s" % limit
    except OSError as error:
        return None, str(error)
    if result.returncode != 0:
        said = [line for line in result.stderr.strip().split("\n") if line.strip()]
        return None, said[-1][:200] if said else "status %d" % result.returncode
    return [json.loads(line) for line in result.stdout.split("\n") if line.startswith("{")], None


def median_row(rows):
    """One row of several rounds: numbers by their median, and the spread of the times."""
    row = dict(rows[-1])
    for key, value in row.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            row[key] = statistics.median(r[key] for r in rows)
    if "seconds" in row:
        row["rounds"] = [r["seconds"] for r in rows]
    return row


def measure(args, case):
    """Ours by case, theirs by side, reasons by key."""
    rounds, absent = {}, {}
    for _ in range(args.rounds):
        for is_ours, key, command in commands(args, case):
            if key in absent:
                continue
            rows, reason = run(command, args.limit)
            if reason:
                absent[key] = reason
                continue
            if is_ours:
                rows = [r for r in rows if r["case"] == key]
            if args.json:  # each as soon as it is there: this process may be ended before its claims are
                for row in rows:
                    print(json.dumps({"case": case, "side": "csplade" if is_ours else key, "measured": row}), flush=True)
            rounds.setdefault((is_ours, key), []).append(rows)
    ours, theirs = {}, {}
    for (is_ours, key), runs in rounds.items():
        merged = [median_row([run_rows[i] for run_rows in runs]) for i in range(len(runs[0]))]
        if is_ours:
            ours[key] = merged
        else:
            theirs[key] = merged[0]
    return ours, theirs, absent


def verdict(figure, goal, minimum, up):
    if figure is None:
        return "not measured"
    reached = (lambda limit: figure >= limit) if up else (lambda limit: figure <= limit)
    return "goal" if reached(goal) else "minimum" if reached(minimum) else "MISSED"


def report(args, case, ours, theirs, absent):
    lines = []
    for what, goal, minimum, up, figure in CASES[case][2]:
        value = figure(ours, theirs)
        lines.append({"case": case, "what": what, "figure": value, "goal": goal, "minimum": minimum,
                      "better": "larger" if up else "smaller", "verdict": verdict(value, goal, minimum, up),
                      "absent": absent, "ours": ours, "theirs": theirs, "tiny": args.tiny})
    for line in lines:
        if args.json:
            print(json.dumps(line), flush=True)
            continue
        print("| %s | %s | %s | %s %g | %g | %s |" % (
            case, line["what"], "-" if line["figure"] is None else "%.3g" % line["figure"],
            ">=" if line["better"] == "larger" else "<=", line["goal"], line["minimum"], line["verdict"]), flush=True)
    if not args.json:
        for key, reason in absent.items():
            print("\n%s: %s was not measured: %s\n" % (case, key, reason))
        for key, row in theirs.items():
            if "seconds" in row:
                print("\n%s, %s: %.4g ms for %d tokens (%s ms a round)%s%s\n" % (
                    case, key, 1e3 * row["seconds"], row["tokens"],
                    " ".join("%.4g" % (1e3 * s) for s in row["rounds"]),
                    ", peak %.0f MB" % row["peak_mb"] if "peak_mb" in row else "",
                    ", cached gradients by %d" % row["micro_batch"] if row.get("cached_gradients") else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", metavar="CASE")
    parser.add_argument("--csplade", default="csplade", metavar="PROGRAM", help="command that starts it")
    parser.add_argument("--python", default=sys.executable, metavar="PROGRAM", help="a Python with torch")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the peers out")
    parser.add_argument("--tiny", action="store_true", help="shapes of some tokens, which prove nothing")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="of one process")
    parser.add_argument("--json", action="store_true", help="a JSON object for each claim in place of the table")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    cases = args.case or list(CASES)
    for case in cases:
        if case not in CASES:
            parser.error("%s is no case: %s" % (case, ", ".join(CASES)))
    if args.dry_run:
        for case in cases:
            for _, _, command in commands(args, case):
                print(case, " ".join(shlex.quote(word) for word in command))
            for what, goal, minimum, up, _ in CASES[case][2]:
                print("%s %s: %s %g, minimum %g" % (case, what, ">=" if up else "<=", goal, minimum))
        return
    if not args.json:
        print("%s, %s, %d rounds, %s%s\n" % (datetime.date.today(), args.device, args.rounds, run_version(args),
                                             ", TINY SHAPES: figures mean nothing" if args.tiny else ""))
        print("| case | claim | figure | goal | minimum | verdict |\n| --- | --- | --- | --- | --- | --- |")
    for case in cases:
        report(args, case, *measure(args, case))


def run_version(args):
    result = subprocess.run(shlex.split(args.csplade) + ["--version"], stdout=subprocess.PIPE, text=True, check=False)
    return result.stdout.strip()


if __name__ == "__main__":
    main()
