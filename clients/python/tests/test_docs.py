"""What the documents show is what happens: their Python blocks are run, and what they print is compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow

# Runs the blocks that come in as JSON, one after the other, and writes what each printed.
RUN = """
import contextlib, io, json, sys, traceback
names, printed = {"__name__": "__main__"}, []
for line, code in json.load(sys.stdin):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile("\\n" * line + code, "the document", "exec"), names)
        except BaseException:
            traceback.print_exc()
            sys.exit(f"what was printed: {output.getvalue()}")
    printed.append(output.getvalue())
for value in list(names.values()):
    if hasattr(value, "process"):
        value.close()
print(json.dumps(printed))
"""


def blocks(text: str) -> list[tuple[int, str, str | None]]:
    """The Python blocks: line, code, and the text block that stands directly below."""
    found: list[tuple[int, str, str | None]] = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, code = match.groups()
        line = text[: match.start()].count("\n") + 1
        if language == "python":
            found.append((line, code, None))
            end = match.end()
        elif language == "text" and found and not text[end : match.start()].strip():
            found[-1] = (*found[-1][:2], code)
    return found


@pytest.mark.parametrize("document", ["clients/python/README.md", "docs/python.md"])
def test_the_blocks_do_what_the_document_says(document: str, binary: Path) -> None:
    all_blocks = blocks((ROOT / document).read_text(encoding="utf-8"))
    assert len(all_blocks) >= 3
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([(line, code) for line, code, _ in all_blocks]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "G2G_AGENT_BINARY": str(binary)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{document}: {done.stderr}"
    for (line, _, wanted), printed in zip(all_blocks, json.loads(done.stdout), strict=True):
        pattern = ".*".join(re.escape(part) for part in (wanted or "").split("…"))
        assert re.fullmatch(pattern, printed, re.DOTALL), (
            f"{document}, line {line} prints\n{printed}\nand not\n{wanted}"
        )


def test_the_readme_begins_with_what_to_install_and_five_lines() -> None:
    text = (ROOT / "clients/python/README.md").read_text(encoding="utf-8")
    first = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[:2]
    assert first[0] == ("sh", "pip install g2g-agent\n")
    assert first[1][0] == "python"
    assert len([line for line in first[1][1].splitlines() if line.strip()]) <= 5


def test_the_lockstep_example_of_the_projects_readme_runs_as_printed(binary: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = [
        code for code in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "--pace step" in code
    ]
    with socket.create_server(("127.0.0.1", 0)) as free:
        here = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "g2g-agent").symlink_to(binary)
    shell = subprocess.Popen(
        ["bash", "-e", "-c", block.replace("127.0.0.1:8480", here).replace("curl", "curl --no-progress-meter --fail")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "G2G_AGENT_API__LISTEN": here},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert shell.stdout is not None
        said = b""
        # To the second answer's end, and no further: the agent holds the pipe open, too.
        while not re.search(rb'\]\s*\{.*"results":\[\{[^]]*\]\}', said, re.DOTALL):
            more = os.read(shell.stdout.fileno(), 1 << 16)
            assert more, f"it ended after {said[-300:]!r}"
            said += more
        answers: list[Any] = []
        text = said.decode()
        while text.strip():
            answer, end = json.JSONDecoder().raw_decode(text.lstrip())
            answers.append(answer)
            text = text.lstrip()[end:]
        assert len(answers[0]) == 300
        assert answers[1]["from_seq"] == 300
        assert answers[1]["batch_size_by_model"]["Llama-3.1-8B"] == 64
        assert shell.wait(60) == 0
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
