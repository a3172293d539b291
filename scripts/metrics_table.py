#!/usr/bin/env python3
"""Writes the table of docs/metrics.md from the rows of src/host/train/step_metrics.c.

usage: metrics_table.py [--check]     --check: change nothing, exit 1 where the table is not theirs
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/metrics.md"
ROW = re.compile(r'^\s*ROW\((\w+),\s*(true|false),\s*"([^"]*)",\s*((?:"[^"]*"\s*)+)\),', re.M)


def table():
    rows = ROW.findall((ROOT / "src/host/train/step_metrics.c").read_text())
    lines = ["| key | unit | in the log line | meaning |", "| --- | --- | --- | --- |"]
    for key, in_line, unit, text in rows:
        meaning = "".join(re.findall(r'"([^"]*)"', text))
        lines.append(f"| `{key}` | {unit} | {'yes' if in_line == 'true' else ''} | {meaning} |")
    return "\n".join(lines), len(rows)


def main():
    text, rows = table()
    page = PAGE.read_text()
    made = re.sub(r"(<!-- metrics-table -->\n).*?(<!-- /metrics-table -->)",
                  lambda m: m[1] + text + "\n" + m[2], page, flags=re.S)
    if rows < 20 or text not in made:
        sys.exit("metrics_table.py: the rows or their place in docs/metrics.md were not found")
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made)
    elif made != page:
        sys.exit("docs/metrics.md is not made from step_metrics.c: run scripts/metrics_table.py")


if __name__ == "__main__":
    main()
