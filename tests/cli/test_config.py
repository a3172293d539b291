#!/usr/bin/env python3
"""csplade config, and the files in configs/: base.yaml is what the program prints, every other one
passes the check and is documented. Arguments: the program, the source folder."""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
CONFIGS = SOURCE / "configs"
failures = []


def run(*words):
    return subprocess.run([PROGRAM, "config", *words], cwd=SOURCE, capture_output=True, text=True,
                          check=False)


def expect(condition, what):
    if not condition:
        failures.append(what)


def main():
    printed = run("print")
    expect(printed.returncode == 0, "config print fails: " + printed.stderr)
    expect(printed.stdout == (CONFIGS / "base.yaml").read_text(),
           "configs/base.yaml is not what `csplade config print` prints")

    files = [p for p in sorted(CONFIGS.rglob("*.yaml")) if p != CONFIGS / "base.yaml"]
    expect(len(files) >= 12, f"only {len(files)} configs")
    hashes = {}
    for path in files:
        result = run("check", str(path))
        expect(result.returncode == 0, f"{path}: {result.stderr}")
        expect(path.read_text().startswith("# "), f"{path} does not begin with what it is for")
        found = re.search(r"hash ([0-9a-f]{16})", result.stdout)
        hashes[path.name] = found.group(1) if found else None
    # An ablation that changes nothing would compare a run with itself; causal is base by name.
    ablations = [p for p in files if p.parent.name == "ablations" and p.name != "causal.yaml"]
    expect(len({hashes[p.name] for p in ablations}) == len(ablations), f"equal ablations: {hashes}")
    outputs = []
    for path in files:
        resolved = run("print", str(path)).stdout
        outputs.append(re.search(r'output_dir: (".*?")', resolved).group(1))
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as again:
            again.write(resolved)
            again.flush()
            second = run("check", again.name)
            expect(hashes[path.name] in second.stdout, f"{path}: the printed config differs")
    expect(len(set(outputs)) == len(outputs), f"two configs write to one folder: {outputs}")

    cases = [
        (["check", "configs/base.yaml"], 2, "model.path is required"),
        (["check", "configs/nowhere.yaml"], 1, "configs/nowhere.yaml: No such file"),
        (["check", "configs/demo.yaml", "--set", "contrastive.ramp_step=3"], 2,
         "(did you mean ramp_steps?)"),
        (["check", "configs/demo.yaml", "--set", "device.name=cpu", "--set",
          "device.precision=bf16"], 5, "fp32 only"),
        (["check", "configs/demo.yaml", "device.name=gpu"], 2, "device.name gpu: no such device"),
        (["check", "configs/demo.yaml", "device.name=cpu", "device.head_backward=lists"], 2,
         "device.head_backward is of a GPU"),
        (["check", "configs/demo.yaml", "device.name=cuda", "device.head_backward=cusparse",
          "model.pooling=sum"], 2, "device.head_backward is of max pooling"),
        (["check", "configs/demo.yaml", "device.head_backward=dense"], 2, "head_backward=dense"),
        (["check", "configs/demo.yaml", "device.name=cpu", "device.head_forward=fused"], 2,
         "device.head_forward is of a GPU"),
        (["check", "configs/demo.yaml", "device.name=cuda", "device.head_forward=fused",
          "device.precision=fp32"], 2, "device.head_forward fused is of bf16"),
        (["check", "configs/demo.yaml", "device.name=cuda", "device.head_forward=fused",
          "model.pooling=sum"], 2, "device.head_forward fused is of max pooling"),
        (["check", "configs/demo.yaml", "device.name=cpu", "device.graphs=on"], 2,
         "device.graphs is of a GPU"),
        (["check"], 2, "a FILE is missing"),
        (["burn"], 2, "neither check nor print"),
        ([], 2, "check|print is missing"),
        (["check", "configs/demo.yaml", "b"], 2, "--set b: section.key=value is expected"),
        (["check", "configs/demo.yaml", "run.seed=-1"], 2, "run.seed=-1: -1 is below the minimum"),
    ]
    for words, code, message in cases:
        result = run(*words)
        expect(result.returncode == code and message in result.stderr and not result.stdout,
               f"{words}: {result.returncode} {result.stdout} {result.stderr}")

    for failure in failures:
        print(failure)
    print(f"{len(files)} configs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
