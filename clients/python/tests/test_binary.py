"""Where the program is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from g2g_agent import binary, find_binary
from g2g_agent.binary import environment


def program(path: Path, text: str = "\x7fELF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as if it stood in a folder of its own, without a program, and an empty PATH."""
    monkeypatch.delenv("G2G_AGENT_BINARY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(binary, "__file__", str(tmp_path / "package" / "binary.py"))
    return tmp_path


def test_the_variable_goes_first(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(elsewhere / "package" / "bin" / "g2g-agent")
    mine = program(elsewhere / "mine")
    monkeypatch.setenv("G2G_AGENT_BINARY", str(mine))
    assert find_binary() == mine
    monkeypatch.setenv("G2G_AGENT_BINARY", str(elsewhere / "nothing"))
    with pytest.raises(FileNotFoundError, match="no program that can be run"):
        find_binary()


def test_then_the_one_of_the_wheel(elsewhere: Path) -> None:
    shipped = program(elsewhere / "package" / "bin" / "g2g-agent")
    program(elsewhere / "path" / "g2g-agent")
    assert find_binary() == shipped


def test_then_the_one_on_the_path_but_not_this_packages_script(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(elsewhere / "path" / "g2g-agent", "#!/usr/bin/python3\n")
    with pytest.raises(FileNotFoundError, match="go build"):
        find_binary()
    real = program(elsewhere / "later" / "g2g-agent")
    monkeypatch.setenv("PATH", os.pathsep.join(["", str(elsewhere / "path"), str(elsewhere / "later")]))
    assert find_binary() == real


def test_the_command_becomes_the_program(binary: Path) -> None:
    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "g2g_agent", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = run("version", G2G_AGENT_BINARY=str(binary))
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == subprocess.run([binary, "version"], capture_output=True, text=True, check=True, env=environment()).stdout
    )
    assert run("--no-such-flag", G2G_AGENT_BINARY=str(binary)).returncode == 2
    lost = run("version", G2G_AGENT_BINARY="/no/such")
    assert lost.returncode == 1
    assert "G2G_AGENT_BINARY" in lost.stderr
