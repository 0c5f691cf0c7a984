"""What README files say of the examples holds: snippets run, and all notebooks are named and can be run."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import nbformat
import pytest
from g2g_agent.openg2g import AgentDatacenter
from openg2g.clock import SimulationClock
from openg2g.coordinator import SimulationLog
from openg2g.datacenter.offline import OfflineDatacenter
from openg2g.events import EventEmitter

import study

EXAMPLES = Path(__file__).resolve().parent.parent
ROOT = EXAMPLES.parent.parent
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))


def snippets(path: Path, heading: str) -> list[str]:
    """The Python code in a section of a README."""
    section = path.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def first_power(datacenter: Any) -> tuple[float, float, float]:
    clock = SimulationClock(tick_s=datacenter.dt_s)
    return study.phases(datacenter.do_step(clock, EventEmitter(clock, SimulationLog(), "datacenter")))


@pytest.mark.parametrize(
    ("path", "heading"), [(ROOT / "README.md", "With OpenG2G"), (EXAMPLES / "README.md", "The changed line")]
)
def test_the_changed_line_gives_the_same_power(path: Path, heading: str) -> None:
    (code,) = snippets(path, heading)
    lines = [line.removeprefix("# ") for line in code.splitlines()]
    assert len(lines) == 2
    case = study.Study(duration_s=2)
    scope = {
        "Fraction": Fraction,
        "OfflineDatacenter": OfflineDatacenter,
        "AgentDatacenter": AgentDatacenter,
        "facility": study.FACILITY,
        "workload": case.workload(),
        "dt_s": study.DT_S,
    }
    powers = []
    for line in lines:
        exec(line, scope)
        powers.append(first_power(scope["datacenter"]))
    assert isinstance(scope["datacenter"], AgentDatacenter)
    scope["datacenter"].close()
    assert powers[0] == powers[1]


def test_all_notebooks_are_named() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        assert f"](notebooks/{path.name})" in text


def run_notebook(path: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "run_notebooks.py", path], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "outputs", "said"),
    [
        ("1 / 0", [], "ZeroDivisionError"),
        ("1", [nbformat.v4.new_output("stream", text="1")], "it has outputs"),
        ("1 + 1", [], None),
    ],
)
def test_a_bad_notebook_is_told(tmp_path: Path, source: str, outputs: list[Any], said: str | None) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, outputs=outputs)])
    path = tmp_path / "some.ipynb"
    nbformat.write(notebook, path)
    status, text = run_notebook(path)
    assert status == (0 if said is None else 1)
    assert said is None or said in text
