"""Figures of a proof, as lines of a table; written into docs/proofs.md between two marks of its own where that is asked for."""
import datetime
import os
import re
import shlex
import sys
from pathlib import Path


def record(file, name, rows):
    """Puts the table in the place of what stands between <!-- NAME --> and <!-- /NAME --> in the file."""
    text = Path(file).read_text()
    command = " ".join(["tests/proofs/" + Path(sys.argv[0]).name, *map(shlex.quote, without_record(sys.argv[1:]))])
    table = "\n".join([f"{datetime.date.today()}, `{command}`, {os.cpu_count()} cores, load {os.getloadavg()[2]:.0f} over 15 minutes:", "", "| | |", "|---|---|",
                       *(f"| {what} | {figure} |" for what, figure in rows)])
    marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    if not marked.search(text):
        raise SystemExit(f"{file} has no <!-- {name} --> to write figures to")
    Path(file).write_text(marked.sub(lambda m: f"{m[1]}{table}\n{m[2]}", text))


def without_record(words):
    return [w for i, w in enumerate(words) if w != "--record" and (i == 0 or words[i - 1] != "--record") and not w.startswith("--record=")]
