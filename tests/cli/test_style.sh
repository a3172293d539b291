#!/bin/bash
# The tree keeps its own rules. Arguments: the program (not used), the source folder.
exec python3 "$2/scripts/check_style.py" --root "$2"
