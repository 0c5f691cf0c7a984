"""The check of the feeder files fails for a feeder that is not the published one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FEEDER = Path(__file__).resolve().parent.parent / "feeder"


def check(directory: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, directory / "check_feeder.py"], capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_the_feeder_is_the_published_one() -> None:
    status, lines = check(FEEDER)
    assert status == 0
    assert len(lines) == 5
    assert all(line.startswith("ok") for line in lines)


@pytest.mark.parametrize(
    ("file", "what", "instead"),
    [
        ("ieee13_network.dss", "0.3465 |", "0.3565 |"),  # a resistance of line 601
        ("ieee13_network.dss", "bus1=671.1.3    bus2=684.1.3", "bus1=671.1.2    bus2=684.1.3"),  # a phase
        ("ieee13_published.dss", "kW=485  kvar=190", "kW=458  kvar=190"),
        ("ieee13_datacenter.dss", "kW=140 kvar=80", "kW=141 kvar=80"),
    ],
)
def test_another_feeder_is_not(tmp_path: Path, file: str, what: str, instead: str) -> None:
    copy = shutil.copytree(FEEDER, tmp_path / "feeder")
    text = (copy / file).read_text()
    assert what in text
    (copy / file).write_text(text.replace(what, instead))
    status, lines = check(copy)
    assert status == 1
    assert any(line.startswith("FAIL") for line in lines)
