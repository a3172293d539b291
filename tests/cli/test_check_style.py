#!/usr/bin/env python3
"""check_style.py must see each kind of breach, at its line, and nothing in a clean file."""
import subprocess
import sys
import tempfile
from pathlib import Path

CHECK = Path(sys.argv[2]) / "scripts/check_style.py"
HEAD = "/* x.c - for a test. */\n"
PAGE = "docs/p" + ".md"  # in two pieces: the checker reads this file too
PAGE_TEXT = "# Page\n\n## 2. First\n\n### 2.1 Of it\n\n## 3. Last\n\n## A title\n"
CLEAN = "src/host/core/clean.c"  # beside a script: a tree without sources does not pass

CASES = [
    # path, text, what the report must hold; None = clean
    ("src/host/io/a.c", HEAD + '#include "core/status.h"\n', None),
    ("src/host/io/a.c", HEAD + '#include "ops/linear.h"\n', "a.c:2: io may not include ops/linear.h"),
    ("src/host/model/a.c", HEAD + '#include "data/batch.h"\n', "model may not include data/batch.h"),
    ("src/host/core/a.c", HEAD + '#include "config/config.h"\n', "core may not include"),
    ("src/host/cpu/a.c", HEAD + '#include "cuda/x.h"\n', "in no layer"),
    ("src/host/cpu/a.c", HEAD + "#include <cuda_runtime.h>\n", "CUDA header"),
    ("src/cuda/a.cu", HEAD + '#include "model/block.h"\n', "src/cuda may not include model/block.h"),
    ("src/cuda/a.cu", HEAD + '#include "ops/table.h"\n', None),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n    exit(1);\n}\n", "a.c:4: exit() is not allowed"),
    ("src/host/eval/a.c", HEAD + "// exit(1)\n/* abort() */\nchar *s = \"printf(\";\n", None),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n    fprintf(stderr, \"x\");\n}\n", "stderr"),
    ("src/host/cli/a.c", HEAD + "void f(void)\n{\n    printf(\"x\");\n}\n", None),
    ("src/host/eval/a.c", "int x;\n", "a.c:1: a file begins with a comment"),
    ("src/host/eval/a.h", HEAD + "int x;\n", "#pragma once"),
    ("src/host/eval/eval_utils.c", HEAD, "named for what it does"),
    ("src/host/eval/a.c", HEAD + "int x;\n" * 600, "601 lines"),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n" + "    x++;\n" * 101 + "}\n", "a function of 101"),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n" + "    x++;\n" * 100 + "}\n", None),
    ("src/host/eval/a.c", HEAD + "// " + "x" * 98 + "\n", "101 columns"),
    ("src/host/eval/a.c", HEAD + "#if 0\n#endif\n", "#if 0"),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n    if (x)\n        y();\n}\n", "a.c:4: if without"),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n    if (x) {\n    } else\n        y();\n}\n",
     "a.c:5: else without"),
    ("src/host/eval/a.c", HEAD + "void f(void)\n{\n    do {\n    } while (x);\n}\n", None),
    ("src/host/other/a.c", HEAD, "no layer that check_style.py knows"),
    ("src/host/eval/a.c", HEAD + "/* " + PAGE + " 2.1 and 3, " + PAGE + ' "A title" */\n', None),
    ("src/host/eval/a.c", HEAD + "/*\n * " + PAGE + "\n * 3. Then */\n", None),
    ("src/host/eval/a.c", HEAD + "/*\n * " + PAGE + "\n * 4. Then */\n", "a.c:3: " + PAGE + " has no section 4"),
    ("src/host/eval/a.c", HEAD + "/* " + PAGE + " 3 and 2.2. */\n", "has no section 2.2"),
    ("src/host/eval/a.c", HEAD + "/* " + PAGE + ' "Another" */\n', "has no section Another"),
    ("src/host/eval/a.c", HEAD + "/* p" + ".md 3 */\n", "a.c:2: p" + ".md is cited and not in the repository"),
    ("src/host/ops/a.c", HEAD + "int x = csp_op_done(\n    be, be->ops->a_fwd(be, csp_op_marked(be, be->ops->b(be))));\n",
     None),
    ("src/host/ops/a.c", HEAD + "int x = be->ops->sync(be);\n", None),
    ("src/host/ops/a.c", HEAD + "int x = csp_op_done(be,\n    y(be->ops->a_fwd(be)));\n",
     "a.c:3: a_fwd is called by csp_op_done"),
    ("scripts/a.py", "# q" + ".md\n", "a.py:1: q" + ".md is cited"),
]


def run(path, text, options):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path
        target.parent.mkdir(parents=True)
        target.write_text(text)
        for name, content in ((PAGE, PAGE_TEXT), (CLEAN, HEAD)):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(content)
        return subprocess.run([sys.executable, str(CHECK), "--root", folder] + options,
                              capture_output=True, text=True, check=False)


def main():
    failures = 0
    for path, text, want in CASES:
        result = run(path, text, ["--no-format"])
        good = result.returncode == 0 if want is None else (
            result.returncode == 1 and want in result.stdout)
        if not good:
            failures += 1
            print(f"{path}: wanted {want!r}, got {result.returncode}: {result.stdout}")
    empty = subprocess.run([sys.executable, str(CHECK), "--root", "/nowhere"], check=False,
                           capture_output=True)
    if empty.returncode == 0:
        failures += 1
        print("an empty tree must not pass")
    print(f"{len(CASES)} cases, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
