#!/usr/bin/env python3
"""The documents are true where a program can tell: what they show runs, options and files that they
name exist, and their tables equal the program's. Arguments: the program, the source folder.

Blocks marked "sh run" are run in order, page after page, in a folder with a tiny collection `my`; a
block "yaml NAME" is the file NAME there, with fewer training steps. Of other shell blocks every
csplade command must name a subcommand and options that --help knows."""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, SOURCE = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
PAGES = [SOURCE / "README.md", *sorted((SOURCE / "docs").rglob("*.md")), SOURCE / "CONTRIBUTING.md",
         SOURCE / "third_party/README.md", SOURCE / "CHANGELOG.md"]
STEPS, FEW_STEPS = 2000, 4
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.M | re.S)
TREES = ("src/", "scripts/", "configs/", "docs/", "tests/", "third_party/", ".ci/")
WORDS = ("bread flour oven yeast", "stars orbit planet moon", "river bridge boat water")
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)


def call(*words):
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False)


def make_collection(folder):
    (folder / "qrels").mkdir(parents=True)
    rows = [WORDS[i % 3].split() for i in range(12)]
    (folder / "corpus.jsonl").write_text("".join(
        json.dumps({"_id": f"d{i}", "title": w[0], "text": f"the {w[1]} and {w[2]} {i}"}) + "\n"
        for i, w in enumerate(rows)))
    (folder / "queries.jsonl").write_text("".join(
        json.dumps({"_id": f"q{i}", "text": f"{w[3]} {w[1]} {i}"}) + "\n" for i, w in enumerate(rows)))
    for split in ("train", "dev", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(
            f"q{i}\td{i}\t1\n" for i in range(12)))


def shortened(text):
    """The same with fewer training steps, in settings and in names of checkpoints."""
    return (text.replace(f"max_steps: {STEPS}", f"max_steps: {FEW_STEPS}")
            .replace(f"-{STEPS:08d}.h5", f"-{FEW_STEPS:08d}.h5"))


def run_blocks(folder):
    """Runs what is marked as runnable; how many commands there were."""
    (folder / "bin").mkdir()
    (folder / "bin/csplade").symlink_to(PROGRAM)
    make_collection(folder / "my")
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    commands = 0
    for page in PAGES:
        for info, text in BLOCK.findall(page.read_text()):
            if re.fullmatch(r"yaml \S+\.yaml", info):
                (folder / info.split()[1]).write_text(shortened(text))
            if info != "sh run":
                continue
            for command in joined(text):
                done = subprocess.run(["bash", "-c", shortened(command)], cwd=folder,
                                      env=environment, capture_output=True, text=True, check=False)
                expect(done.returncode == 0, f"{page.relative_to(SOURCE)}: {command}: {done.stderr}")
                commands += 1
    return commands


def joined(text):
    """The commands of a block: continued lines joined, comments and blank lines left out."""
    lines = text.replace("\\\n", " ").split("\n")
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def known_options(subcommand, cache):
    if subcommand not in cache:
        done = call(subcommand, "--help")
        cache[subcommand] = None if done.returncode else set(
            re.findall(r"^  (?:-\w, |    )(--[\w-]+)", done.stdout, re.M)) | set(
            re.findall(r"^  (-\w), ", done.stdout, re.M))
    return cache[subcommand]


def check_command(where, command, cache):
    words = shlex.split(command.split("|")[0], comments=True)
    words = words[1:words.index(">")] if ">" in words else words[1:]
    if not words or words[0].startswith("-") or words[0] == "COMMAND":
        return
    options = known_options(words[0], cache)
    expect(options is not None, f"{where}: no such subcommand: {command}")
    for word in words[1:]:
        name = word.split("=")[0]
        expect(options is None or not re.match(r"--?[a-zA-Z]", name) or name in options,
               f"{where}: {words[0]} has no option {name}: {command}")


def check_commands():
    """Every command that a page shows, in blocks and in words."""
    cache, seen = {}, 0
    for page in PAGES:
        text = page.read_text()
        shown = [c for info, block in BLOCK.findall(text) if info.startswith("sh")
                 for c in joined(block)]
        words = re.findall(r"`(csplade [^`\n]+)`", BLOCK.sub("", text))
        for command in [*shown, *words]:
            at = command.find("csplade ")
            if command.strip().startswith("csplade ") or "| csplade " in command:
                check_command(page.name, command[at:], cache)
                seen += 1
    return seen


def check_paths():
    """Files named in `...` and links of the repository exist; <...> stands for any name."""
    seen = 0
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        named = [w for w in re.findall(r"`([^`\s]+)`", text) if w.startswith(TREES)]
        short = [w for w in re.findall(r"`([^`\s]+)`", text)
                 if re.fullmatch(r"(core|config|io|ops|cpu|model|data|eval|train|export|cli)/\S+\.[ch]", w)]
        links = [w.split("#")[0] for w in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in w]
        places = ([(SOURCE, w) for w in named] + [(SOURCE / "src/host", w) for w in short] +
                  [(page.parent, w) for w in links if w])
        for base, name in places:
            pattern = re.sub(r"<[^>]+>", "*", name).rstrip("/")
            there = any(base.glob(pattern)) if "*" in pattern else (base / pattern).exists()
            expect(there, f"{page.relative_to(SOURCE)}: {name} does not exist")
            seen += 1
    return seen


def check_tables():
    rows = re.findall(r"^ +(\d+)  (.+)$", call("--help").stdout.split("exit codes:")[1], re.M)
    readme = (SOURCE / "README.md").read_text()
    table = readme.split("<!-- exit-codes -->")[1].split("\n\n")[0]
    expect(re.findall(r"^\| (\d+) \| (.+) \|$", table, re.M) == rows,
           "README.md: the exit codes are not those of csplade --help")
    done = subprocess.run([sys.executable, SOURCE / "scripts/metrics_table.py", "--check"],
                          capture_output=True, text=True, check=False)
    expect(done.returncode == 0, done.stderr)


def check_metrics(folder):
    """The keys of a real run are those of the table, in its order."""
    page = (SOURCE / "docs/metrics.md").read_text()
    lines = (folder / "run/my/metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "loss" in row]
    expect(steps and list(steps[0]) == ["phase", "step", *re.findall(r"^\| `(\w+)` \|", page, re.M)],
           f"docs/metrics.md lists other keys than a run has: {list(steps[0])}")


def main():
    with tempfile.TemporaryDirectory() as name:
        commands = run_blocks(Path(name))
        check_metrics(Path(name))
    shown, paths = check_commands(), check_paths()
    check_tables()
    expect(commands >= 20 and shown >= 30 and paths >= 30, f"{commands} {shown} {paths}: too few")
    for failure in failures:
        print(failure)
    print(f"{commands} commands run, {shown} checked, {paths} paths, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
