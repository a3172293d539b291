#!/usr/bin/env python3
"""Checks what a GPU refuses at a launch and the emulator cannot know of: registers and permissions.

    scripts/check_launches.py [--root DIR]

Every __global__ function of src/cuda has __launch_bounds__, by which nvcc gives its threads no more
registers than a block of that many has; every cu::launch gives the block that the bound names, or a
smaller one that CHOSEN explains; and where it gives dynamic shared memory, cu::allow_shared asks for
as much for the same kernel before it in the same function. Prints file:line: message for each
breach; exit status 1 if there is one.
"""
import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from check_style import strip_comments_and_strings  # noqa: E402

# Blocks whose size is chosen when they are launched: file, block as written, the bounds they keep to
# (as the kernels write them), and who chooses. An entry that no launch needs is a breach, too.
CHOSEN = {
    # pick_norm: WARP_KERNEL for the kernels with a warp for each row, else at most MOST_THREADS
    ("norm.cu", "plan.threads"): {"WARP_KERNEL", "MOST_THREADS"},
    ("norm_bwd.cu", "plan.threads"): {"WARP_KERNEL", "MOST_THREADS"},
    ("swiglu.cu", "threads"): {"ROW_THREADS"},  # at most that, in the line before
    # token_threads: at most that
    ("loss_token.cu", "token_threads(pieces)"): {"TOKEN_THREADS"},
    ("loss_token.cu", "token_threads(args->predicted)"): {"TOKEN_THREADS"},
    # pick_attention_fwd_warps and pick_attention_fwd_tile: 4 or 8; the bounds are 256 at least
    ("attention_mma.cu", "32 * warps"): {"MMA_FWD_THREADS(W)"},
    ("attention_mma.cu", "32 * tile.warps"): {"ATTENTION_THREADS"},
}
# Functions that give one of several kernels of their file, by the kernels.
GIVES = {"fwd_kernel_of": {"norm_fwd_warp_kernel", "norm_fwd_block_kernel"}}

KERNEL = re.compile(r"__global__\s+void\s*(?:__launch_bounds__\s*(\())?")
CALL = re.compile(r"\bcu::(launch|allow_shared)\s*\(")
NAME = re.compile(r"\b(\w+_kernel)\b")


def closing(text, at):
    """The place behind the bracket that closes the one before at."""
    depth = 1
    while at < len(text) and depth > 0:
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return at


def tidy(text):
    return " ".join(text.split())


def arguments(text):
    """Those of a call, split at the commas that no bracket holds; "<" opens one behind a name."""
    parts, depth, angles, begin = [], 0, 0, 0
    for i, c in enumerate(text):
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "<" and re.search(r"(_kernel\w*|_cast|_of)$", text[:i]):
            angles += 1
        elif c == ">" and angles > 0:
            angles -= 1
        elif c == "," and depth == 0 and angles == 0:
            parts.append(tidy(text[begin:i]))
            begin = i + 1
    return parts + [tidy(text[begin:])]


class Launches:
    def __init__(self, root):
        self.root = root
        self.breaches, self.count = [], 0
        self.bounds = {}  # (kernel, file): its bound, as written; a file's own goes before a header's
        self.used = set()

    def report(self, path, line, message):
        self.breaches.append(f"{path.relative_to(self.root)}:{line}: {message}")

    def find_kernels(self, path, code):
        for match in KERNEL.finditer(code):
            line = code.count("\n", 0, match.start()) + 1
            if match.group(1) is None:
                name = re.match(r"\s*(\w+)", code[match.end():])
                self.report(path, line, f"{name.group(1) if name else 'a kernel'} has no __launch_bounds__")
                continue
            end = closing(code, match.end())
            name = re.match(r"\s*(\w+)", code[end:]).group(1)
            self.bounds[name, path.name] = arguments(code[match.end():end - 1])[0]

    def kernels_of(self, function, given):
        """Those that the first argument of a call may be: named there, or where it got its value."""
        names = set(NAME.findall(given))
        for word in re.findall(r"\w+", given):
            names |= GIVES.get(word, set())
        if not names and re.fullmatch(r"\w+", given):
            value = re.search(rf"\b{given}\)\([^;]*?\)\s*=\s*([^;]*);", function)
            names = set(NAME.findall(value.group(1))) if value else set()
        return names

    def bound_of(self, name, path):
        own = self.bounds.get((name, path.name))
        return own or next((b for (n, file), b in self.bounds.items() if n == name and file.endswith(".cuh")), None)

    def check_block(self, path, line, names, block):
        for name in sorted(names):
            bound, chosen = self.bound_of(name, path), (path.name, block)
            if bound is None:
                self.report(path, line, f"{name} is launched and not found")
            elif bound in CHOSEN.get(chosen, set()):
                self.used.add(chosen)
            elif block.replace(" ", "") != bound.replace(" ", ""):
                self.report(path, line, f"{name} has bounds for {bound} threads, and a block of {block}")

    def check_calls(self, path, code):
        for match in CALL.finditer(code):
            end = closing(code, match.end())
            given = arguments(code[match.end():end - 1])
            line = code.count("\n", 0, match.start()) + 1
            begin = code.rfind("\n{", 0, match.start())
            if match.group(1) == "allow_shared":
                continue
            self.count += 1
            names = self.kernels_of(code[begin:match.start()], given[0])
            if not names:
                self.report(path, line, f"which kernel {given[0]} is cannot be seen here")
            self.check_block(path, line, names, given[2])
            if given[3] == "0":
                continue
            allowed = [arguments(code[m.end():closing(code, m.end()) - 1])
                       for m in CALL.finditer(code, begin, match.start()) if m.group(1) == "allow_shared"]
            if [given[0], given[3]] not in allowed:
                self.report(path, line, f"no cu::allow_shared({given[0]}, {given[3]}) before the launch")

    def check(self):
        files = {p: strip_comments_and_strings(p.read_text(encoding="utf-8"))
                 for p in sorted((self.root / "src/cuda").glob("*.cu*"))}
        for path, code in files.items():
            self.find_kernels(path, code)
        for path, code in files.items():
            if path.name != "portable.cuh":
                self.check_calls(path, code)
        present = {p.name for p in files}
        for name, block in sorted(set(CHOSEN) - self.used):
            if name in present:
                self.breaches.append(f"scripts/check_launches.py: CHOSEN has a block of {block} in {name}, "
                                     "which no launch needs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    checker = Launches(parser.parse_args().root.resolve())
    checker.check()
    for breach in checker.breaches:
        print(breach)
    print(f"check_launches: {len(checker.bounds)} kernels, {checker.count} launches, "
          f"{len(checker.breaches)} breaches", file=sys.stderr)
    return 1 if checker.breaches or not checker.count else 0


if __name__ == "__main__":
    sys.exit(main())
