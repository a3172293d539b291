#!/usr/bin/env python3
"""check_launches.py finds nothing in src/cuda, and each kind of breach where one is planted."""
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(sys.argv[2])
CHECK = ROOT / "scripts/check_launches.py"
KERNEL = "static __global__ void __launch_bounds__(A_THREADS)\n    a_kernel(int *x)\n{\n}\n"
LAUNCH = "static int f(void)\n{\n    return cu::launch(a_kernel<2, int>, dim3(1, 2), A_THREADS, 0, s, x);\n}\n"
SHARED = "static int f(void)\n{\n%s    return cu::launch(a_kernel, 1, A_THREADS, bytes, s, x);\n}\n"

CASES = [
    # file, text, what the report must hold; None = clean
    ("a.cu", KERNEL + LAUNCH, None),
    ("a.cu", KERNEL.replace(" __launch_bounds__(A_THREADS)", "") + LAUNCH, "a.cu:1: a_kernel has no __launch_bounds__"),
    ("a.cu", KERNEL.replace("A_THREADS", "A_THREADS, 2") + LAUNCH, None),
    ("a.cu", KERNEL.replace("A_THREADS", "B_THREADS") + LAUNCH,
     "a.cu:7: a_kernel has bounds for B_THREADS threads, and a block of A_THREADS"),
    ("norm.cu", KERNEL.replace("A_THREADS", "MOST_THREADS") + LAUNCH.replace("A_THREADS", "plan.threads"), None),
    ("norm.cu", KERNEL.replace("A_THREADS", "96") + LAUNCH.replace("A_THREADS", "plan.threads"), "a block of plan.threads"),
    ("norm.cu", KERNEL + LAUNCH, "CHOSEN has a block of plan.threads in norm.cu, which no launch needs"),
    ("a.cu", KERNEL + LAUNCH.replace("    return", "    void (*const kernel)(int *) = y ? b_kernel : a_kernel;\n\n    return")
     .replace("a_kernel<2, int>", "kernel"), "a.cu:9: b_kernel is launched and not found"),
    ("a.cu", KERNEL + LAUNCH.replace("a_kernel<2, int>", "kernel"), "which kernel kernel is cannot be seen here"),
    ("a.cu", KERNEL + SHARED % "    cu::allow_shared(a_kernel, bytes);\n", None),
    ("a.cu", KERNEL + SHARED % "    cu::allow_shared(a_kernel, more);\n", "a.cu:8: no cu::allow_shared(a_kernel, bytes)"),
    ("a.cu", KERNEL + "static int g(void)\n{\n    return cu::allow_shared(a_kernel, bytes);\n}\n" + SHARED % "",
     "a.cu:11: no cu::allow_shared"),
]


def run(root):
    return subprocess.run([sys.executable, str(CHECK), "--root", str(root)], capture_output=True, text=True, check=False)


def main():
    failures = 0
    found = run(ROOT)
    if found.returncode != 0:
        failures += 1
        print(found.stdout + found.stderr)
    for name, text, want in CASES:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "src/cuda" / name
            target.parent.mkdir(parents=True)
            target.write_text(text)
            result = run(folder)
        good = result.returncode == 0 if want is None else result.returncode == 1 and want in result.stdout
        if not good:
            failures += 1
            print(f"{name}: wanted {want!r}, got {result.returncode}: {result.stdout}{result.stderr}")
    if run("/nowhere").returncode == 0:
        failures += 1
        print("an empty tree must not pass")
    print(f"{len(CASES)} cases, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
