"""Where the agent's program is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

__all__ = ["find_binary", "main"]

NAME = "g2g-agent"
OURS = ("G2G_AGENT_BINARY", "G2G_AGENT_URL", "G2G_AGENT_TOKEN", "G2G_AGENT_TOKEN_FILE")


def find_binary() -> Path:
    """The agent's program: `G2G_AGENT_BINARY`, then that of the wheel, then the one on `PATH`.

    Raises:
        FileNotFoundError: There is none; the message says where to get it.
    """
    named = os.environ.get("G2G_AGENT_BINARY")
    if named:
        path = Path(named).absolute()
        if not _runs(path):
            raise FileNotFoundError(f"G2G_AGENT_BINARY is {named!r}, which is no program that can be run")
        return path
    shipped = Path(__file__).absolute().parent / "bin" / NAME
    if _runs(shipped):
        return shipped
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which(NAME, path=folder) if folder else None
        # This package's own script of that name would only come here again.
        if found is not None and not _is_script(Path(found)):
            return Path(found).absolute()
    raise FileNotFoundError(
        f"no {NAME} program: this package has none for your system ({sys.platform}), and there is none on PATH. "
        "Build it with Go (`go build ./cmd/g2g-agent` in the project) and set G2G_AGENT_BINARY to it"
    )


def environment() -> dict[str, str]:
    """This program's environment without the variables that are the client's: to the agent they are unknown keys."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True  # what cannot be read cannot be told from one


def main() -> None:
    """The command `g2g-agent`: becomes the program."""
    try:
        binary = find_binary()
    except FileNotFoundError as err:
        sys.exit(f"{NAME}: {err}")
    os.execve(binary, [NAME, *sys.argv[1:]], environment())
