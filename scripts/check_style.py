#!/usr/bin/env python3
"""Checks what CONTRIBUTING.md asks of every source file and a machine can see.

    scripts/check_style.py [--root DIR] [--no-format]

Includes follow the layers, forbidden functions stay out of the library, files and functions keep
their size limits, every file begins with a comment, headers have #pragma once, no file is called
util, misc, common or helpers, src/host includes no CUDA header, a page that is cited exists with the
section named (docs/method.md 8.2, docs/formats.md "Model folders"), clang-format agrees.
Prints file:line: message for each breach; exit status 1 if there is one.
"""
import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

# Lower number = lower layer. A folder may include itself and lower layers, never its own level.
LAYERS = {
    "core": 0,
    "config": 1,
    "io": 2,
    "ops": 2,
    "comm": 3,
    "cpu": 4,
    "model": 5,
    "data": 5,
    "eval": 6,
    "train": 7,
    "export": 7,
    "cli": 8,
}
# What src/cuda may include from src/host.
CUDA_MAY_USE = {"core", "ops", "comm"}

FORBIDDEN = {
    "exit", "_exit", "abort", "assert", "printf", "getenv", "rand", "srand", "atoi", "atol", "atof",
    "strtok", "sprintf", "vsprintf", "strcpy", "strcat", "alloca", "system", "gets",
}
# The one place each where it is needed: variables of launchers, a process whose own thread hangs.
ALLOWED = {("core/status.c", "abort"), ("comm/launch.c", "getenv"), ("comm/control.c", "_exit")}
STDERR_ALLOWED = {"core/log.c", "core/status.c"}

# Entries of csp_ops that are no work of the device: a profile does not time them. All others are called
# by csp_op_done or csp_op_marked (ops/check.h).
UNTIMED_ENTRIES = {"destroy", "reserve", "release", "memory", "host_reserve", "host_release", "sync", "mark",
                   "elapsed", "download_mark", "download_part", "download_wait", "download_clear",
                    "sparse_pool_choose", "sparse_pool_choose_forward", "tuning_get", "tuning_set", "versions",
                    "graph_run", "collective_library",
                   "collective_make_id", "collective_open", "collective_close", "collective_abort",
                   "collective_start", "collective_join", "collective_waited"}
ENTRY_CALL = re.compile(r"(csp_op_(?:done|marked)\(\s*be,\s*)?\bbe->ops->(\w+)\(")

FILE_LINES = 600
TEST_FILE_LINES = 800  # tests are tables of cases
FUNCTION_LINES = 100
LINE_COLUMNS = 100
BAD_NAMES = re.compile(r"(^|_)(utils?|misc|common|helpers?|part\d+|v\d+|new|old)(_|\.|$)")
SUFFIXES = {".c", ".h", ".cu", ".cuh"}
CITING_SUFFIXES = SUFFIXES | {".py", ".sh", ".cmake", ".yaml", ".txt"}

# A page, and behind it numbers of sections ("8.2 and 8.3", "6, 7", "3-5") or one title in quotes.
NUMBERS = r"\d+(?:\.\d+)*(?:(?:, | and |-)\d+(?:\.\d+)*)*"
CITATION = re.compile(rf'([\w./-]*\w\.md)\b(?: +(?:({NUMBERS})\b|"([^"]+)"))?')

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
CALL = re.compile(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(")
CUDA_HEADER = re.compile(r"^(cuda|cublas|cusparse|nccl|curand|mma|cooperative_groups)")


def strip_comments_and_strings(text):
    """The same text, same lines, with comments, strings and character constants blanked."""
    pattern = re.compile(
        r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)

    def blank(match):
        found = match.group(0)
        if found.startswith('"'):
            return '""' + " " * (len(found) - 2)
        return re.sub(r"[^\n]", " ", found)

    return pattern.sub(blank, text)


class Checker:
    def __init__(self, root):
        self.root = root
        self.breaches = []

    def report(self, path, line, message):
        self.breaches.append(f"{path.relative_to(self.root)}:{line}: {message}")

    def check_includes(self, path, text, folder):
        host = self.root / "src/host"
        for number, line in enumerate(text.split("\n"), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, name = match.group(1) == '"', match.group(2)
            first = name.split("/")[0]
            if CUDA_HEADER.match(name) and host in path.parents:
                self.report(path, number, f"src/host includes the CUDA header {name}")
            if not quoted or folder is None:
                continue
            if folder == "cuda":
                if first in LAYERS and first not in CUDA_MAY_USE:
                    self.report(path, number, f"src/cuda may not include {name}")
            elif "/" in name and first not in LAYERS:
                self.report(path, number, f"{name} is in no layer that check_style.py knows")
            elif "/" not in name and name != "csplade.h":
                self.report(path, number, f"write the folder: {folder}/{name}")
            elif first in LAYERS and first != folder and LAYERS[first] >= LAYERS[folder]:
                self.report(path, number, f"{folder} may not include {name}: layers, docs/architecture.md")

    def check_calls(self, path, code, relative):
        for number, line in enumerate(code.split("\n"), 1):
            for match in CALL.finditer(line):
                name = match.group(1)
                if name in FORBIDDEN and (relative, name) not in ALLOWED:
                    self.report(path, number, f"{name}() is not allowed below cli/")
            if re.search(r"\bstderr\b", line) and relative not in STDERR_ALLOWED:
                self.report(path, number, "only core/log.c writes to stderr below cli/")
            if re.search(r"^\s*#\s*if\s+0\b", line):
                self.report(path, number, "#if 0: history lives in git")

    def check_entries(self, path, code):
        for match in ENTRY_CALL.finditer(code):
            if match.group(1) is None and match.group(2) not in UNTIMED_ENTRIES:
                self.report(path, code.count("\n", 0, match.start(2)) + 1,
                            f"{match.group(2)} is called by csp_op_done, so that a profile times it")

    def check_size(self, path, text, code):
        lines = text.count("\n")
        limit = TEST_FILE_LINES if "tests" in path.relative_to(self.root).parts else FILE_LINES
        if lines > limit:
            self.report(path, lines, f"{lines} lines, the limit is {limit}: split by what it does")
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > LINE_COLUMNS and "http" not in line:
                self.report(path, number, f"{len(line)} columns, the limit is {LINE_COLUMNS}")
            if "\t" in line:
                self.report(path, number, "a tab")
        # A function body opens with a brace in the first column and closes the same way.
        opened = None
        for number, line in enumerate(code.split("\n"), 1):
            if line.startswith("{"):
                opened = number
            elif line.startswith("}") and opened is not None:
                if number - opened - 1 > FUNCTION_LINES:
                    self.report(path, opened, f"a function of {number - opened - 1} lines, "
                                              f"the limit is {FUNCTION_LINES}")
                opened = None

    def check_braces(self, path, code):
        """if, else, for, while and do always have braces."""
        for match in re.finditer(r"\b(if|for|while|switch)\s*\(", code):
            at, depth = match.end(), 1
            while at < len(code) and depth > 0:
                depth += {"(": 1, ")": -1}.get(code[at], 0)
                at += 1
            rest = code[at:at + 200].lstrip()
            before = code[:match.start()].rstrip()
            if match.group(1) == "while" and (rest.startswith(";") or
                                              re.search(r"\}[ \t]*$", code[:match.start()])):
                continue  # the end of a do loop
            line_start = code.rfind("\n", 0, match.start()) + 1
            if code[line_start:match.start()].lstrip().startswith("#"):
                continue
            if before.endswith("\\") or rest.startswith("\\"):
                continue
            if not rest.startswith("{"):
                number = code.count("\n", 0, match.start()) + 1
                self.report(path, number, f"{match.group(1)} without braces")
        for match in re.finditer(r"^[ \t}]*\b(else|do)\b(?!\s*(\{|if\b|\\))", code, re.MULTILINE):
            self.report(path, code.count("\n", 0, match.start(1)) + 1,
                        f"{match.group(1)} without braces")

    def headings(self, page):
        """Numbers and titles of a page's sections: "## 8. Formulas" is 8 and Formulas."""
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^#+ (?:(\d+(?:\.\d+)*)\.? )?(.+)$", text, re.MULTILINE)
        return {part for heading in found for part in heading if part}

    def check_citations(self, path, text):
        # Lines of one comment are one text, every character where it was.
        folded = re.sub(r"\n[ \t]*(?:\*(?!/)|//|#)[ \t]*", lambda m: " " * len(m.group(0)), text)
        for match in CITATION.finditer(folded):
            name, numbers, title = match.groups()
            where = text.count("\n", 0, match.start()) + 1
            page = self.root / name
            if not page.is_file():
                self.report(path, where, f"{name} is cited and not in the repository")
                continue
            wanted = re.findall(r"\d+(?:\.\d+)*", numbers) if numbers else [title] if title else []
            there = self.headings(page) if wanted else set()
            for section in wanted:
                if section not in there:
                    self.report(path, where, f"{name} has no section {section}")

    def check_file(self, path):
        relative_host = None
        folder = None
        parts = path.relative_to(self.root).parts
        if parts[:2] == ("src", "host"):
            relative_host = "/".join(parts[2:])
            folder = parts[2] if len(parts) > 3 else None
        elif parts[:2] == ("src", "cuda"):
            folder = "cuda"
        text = path.read_text(encoding="utf-8")
        code = strip_comments_and_strings(text)
        if not re.match(r"\s*/[*/]", text):
            self.report(path, 1, "a file begins with a comment that says what it is for")
        if path.suffix in (".h", ".cuh") and "#pragma once" not in text:
            self.report(path, 1, "#pragma once is missing")
        if BAD_NAMES.search(path.name):
            self.report(path, 1, "a file is named for what it does")
        if folder is not None and folder not in LAYERS and folder != "cuda":
            self.report(path, 1, f"src/host/{folder} is in no layer that check_style.py knows")
        if folder is not None:
            self.check_includes(path, text, folder)
        if relative_host is not None and folder != "cli":
            self.check_calls(path, code, relative_host)
        if folder == "ops":
            self.check_entries(path, code)
        self.check_size(path, text, code)
        self.check_braces(path, code)

    def check_format(self, paths):
        tool = shutil.which("clang-format")
        if tool is None:
            print("check_style: no clang-format: the formatting was not checked", file=sys.stderr)
            return
        result = subprocess.run(
            [tool, "--dry-run", "--style=file", "--ferror-limit=1"] + [str(p) for p in paths],
            cwd=self.root, capture_output=True, text=True, check=False)
        pattern = re.compile(r"^(.*?):(\d+):\d+: (?:warning|error): (.*)$")
        seen = set()
        for line in result.stderr.split("\n"):
            match = pattern.match(line)
            if match and match.group(1) not in seen:
                seen.add(match.group(1))
                self.report(Path(match.group(1)), int(match.group(2)),
                            "clang-format would change this (clang-format -i)")
        if result.returncode != 0 and not seen:
            self.breaches.append("clang-format failed: " + result.stderr.strip()[:500])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--no-format", action="store_true", help="leave clang-format out")
    arguments = parser.parse_args()
    checker = Checker(arguments.root.resolve())
    paths = sorted(p for folder in ("src", "tests") for p in (checker.root / folder).rglob("*")
                   if p.suffix in SUFFIXES)
    for path in paths:
        checker.check_file(path)
    for path in sorted(p for folder in ("src", "tests", "scripts", "configs", "CMakeLists.txt")
                       for p in [checker.root / folder, *(checker.root / folder).rglob("*")]
                       if p.is_file() and p.suffix in CITING_SUFFIXES):
        checker.check_citations(path, path.read_text(encoding="utf-8"))
    if paths and not arguments.no_format:
        checker.check_format(paths)
    for breach in checker.breaches:
        print(breach)
    print(f"check_style: {len(paths)} files, {len(checker.breaches)} breaches", file=sys.stderr)
    return 1 if checker.breaches or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
