#!/usr/bin/env python3
"""The frame of the program: help, errors, exit codes, stdout and stderr. Argument: the program."""
import json
import os
import re
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
failures = []


def run(*words, **options):
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, **options)


def expect(condition, what):
    if not condition:
        failures.append(what)


def check_help():
    top = run("--help")
    expect(top.returncode == 0 and top.stderr == "", "--help")
    commands = re.findall(r"^  ([a-z]+)  ", top.stdout.split("exit codes")[0], re.MULTILINE)
    expect("config" in commands and "eval" in commands, f"commands: {commands}")
    for code in (0, 1, 2, 3, 4, 5, 75, 130, 143):
        expect(re.search(rf"^ +{code}  \w", top.stdout, re.MULTILINE), f"exit code {code}")
    for command in commands:
        if command == "help":
            continue
        one, two = run(command, "--help"), run("help", command)
        expect(one.returncode == 0 and one.stdout == two.stdout, f"help of {command}")
        expect(one.stdout.startswith(f"csplade {command}: "), f"help of {command}")
        expect("--no-progress" in one.stdout, f"{command} lacks the common options")
        for line in one.stdout.split("\n"):
            expect(len(line) <= 100, f"help of {command}: {line}")
    for words in ([], ["--help"], ["-h"], ["help"]):
        expect(run("help", *words).stdout == top.stdout, f"help {words}")
    expect(re.match(r"csplade \d+\.\d+\.\d+", run("--version").stdout), "--version")


def check_errors():
    cases = [
        ([], "a command is missing"),
        (["evla"], "evla: no such command (did you mean eval?)"),
        (["help", "evla"], "did you mean eval?"),
        (["eval", "--qrel", "x"], "--qrel: no such option (did you mean --qrels?)"),
        (["eval", "--zzzzzz"], "see csplade eval --help"),
        (["eval", "--run", "x"], "--qrels FILE is required"),
        (["eval", "--run"], "--run needs a value (FILE)"),
        (["eval", "--run", "a", "--run", "b"], "--run is given twice"),
        (["eval", "-o", "xml", "--run", "a", "--qrels", "b"], "\"xml\" is not one of text|json"),
        (["eval", "--per-query=1"], "--per-query takes no value"),
        (["eval", "--run", "a", "--qrels", "b", "c"], "c: one argument too many (usage: csplade eval [options])"),
        (["eval", "-qv", "x"], "no such option"),
        (["search", "-k", " 5"], '--depth: " 5" is not a whole number'),
        (["search", "-k", "99999999999999999999"], "is not a whole number"),
        (["bm25", "--b", "0x1p-1"], '--b: "0x1p-1" is not a number'),
        (["bm25", "--b", "nan"], '--b: "nan" is not a number'),
        (["eval", "-q", "-v", "--run", "a", "--qrels", "b"], "exclude each other"),
    ]
    for words, message in cases:
        result = run(*words)
        expect(result.returncode == 2 and message in result.stderr and result.stdout == "",
               f"{words}: {result.returncode} {result.stderr}")
        expect("\033" not in result.stderr, "colours where stderr is no terminal")
    result = run("eval", "--qrels", "/nowhere/q", "--run", "/nowhere/r")
    expect(result.returncode == 1 and "/nowhere/q" in result.stderr, "a missing file exits 1")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = subprocess.run([PROGRAM, "config", "print"], stdout=full, check=False,
                                    stderr=subprocess.PIPE, text=True)
        expect(result.returncode == 1 and "standard output" in result.stderr,
               f"a full disk: {result.returncode} {result.stderr}")


def check_report():
    """What a table or the metrics of a run say is drawn as it is meant, or refused."""
    table = {"columns": ["a", "b"], "rows": [["1", "2"]], "notes": ["n"]}
    step = {"phase": "adapt", "step": 1, "clm": 2.0}
    cases = [
        (table, step, 0, "rep.html"),
        ({**table, "rows": [["1", "2", "3"]]}, step, 3, "row 1 has 3 cells, the columns are 2"),
        ({**table, "rows": {"1": "2"}}, step, 3, '"rows" is missing'),
        ({**table, "rowz": []}, step, 3, '"rowz" is none of columns, rows, notes'),
        ({**table, "notes": [5]}, step, 3, "note 1 is not a text"),
        (table, {**step, "step": "1"}, 3, "metrics.jsonl:1: step is missing or not a whole number"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for content, line, code, message in cases:
            for name, value in (("table.json", content), ("metrics.jsonl", line)):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
                    json.dump(value, stream)
            out = os.path.join(folder, "rep.html")
            result = run("report", "--table", "table.json", "--run", "x=.", "--output", "rep.html",
                         cwd=folder)
            expect(result.returncode == code and message in result.stdout + result.stderr and
                   os.path.exists(out) == (code == 0),
                   f"report {content} {line}: {result.returncode} {result.stderr}")
            if code == 0:
                os.unlink(out)


def check_doctor():
    result = run("doctor")
    expect(result.returncode == 0, "doctor: " + result.stderr)
    for word in ("HDF5", "OpenBLAS", "cpu: works", "cuda", "memory", "disk", "alone, rank 0 of 1",
                 "over TCP: works", "over MPI: "):
        expect(word in result.stdout, f"doctor does not say {word}")


def main():
    check_help()
    check_errors()
    check_report()
    check_doctor()
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
