"""Asks the real readers of the export formats (scripts/check_exports.py); 77 where they are not to
be had. Arguments: the csplade program, the source folder. The environments are kept in
$XDG_CACHE_HOME/csplade-consumers between runs."""
import os
import subprocess
import sys

csplade, source = sys.argv[1:3]
cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
sys.exit(subprocess.run([sys.executable, os.path.join(source, "scripts", "check_exports.py"),
                         "--csplade", csplade, "--cache",
                         os.path.join(cache, "csplade-consumers")]).returncode)
