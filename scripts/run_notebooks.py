"""Executes notebooks, each in its folder, and keeps nothing of what they show.

    python run_notebooks.py NOTEBOOK…

A notebook that fails, or that was saved with outputs, ends this with status 1.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CELL_TIMEOUT_S = 600
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def execute(path: Path) -> str | None:
    """Runs one notebook. Returns what is wrong with it."""
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells):
        return "it has outputs: clear them before saving it"
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(path.parent)}})
    with tempfile.TemporaryDirectory(prefix="notebook-") as sockets:
        kernel = client.create_kernel_manager()
        kernel.transport, kernel.ip = "ipc", f"{sockets}/kernel"  # no port for others to connect to
        try:
            client.execute()
        except CellExecutionError as err:
            return COLOURS.sub("", str(err))
    return None


def main(paths: list[str]) -> int:
    failed = 0
    for path in map(Path, paths):
        start = time.monotonic()
        problem = execute(path)
        print(f"{'FAIL' if problem else 'ok  '} {path.name} ({time.monotonic() - start:.1f} s)", flush=True)
        if problem:
            print(problem, file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
