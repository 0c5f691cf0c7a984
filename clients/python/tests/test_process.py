"""Agents as processes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import CONFIG, MODELS
from g2g_agent import Agent, errors
from g2g_agent.binary import environment
from g2g_agent.process import LINE_BYTES, LOG_LINES


def script(tmp_path: Path, text: str) -> Path:
    """A program that stands in for the agent's."""
    path = tmp_path / "stand-in"
    path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


TELL = """
import os, sys, threading
def tell(url="http://127.0.0.1:1"):
    with open(sys.argv[sys.argv.index("--url-file") + 1], "w") as file:
        file.write(url + "\\n")
"""


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether it becomes true in time; for what tells nobody when it happens."""
    deadline = time.monotonic() + timeout_s
    never = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        never.wait(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has asked for its status is no longer alive.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_a_replay_starts_steps_and_ends(binary: Path) -> None:
    with Agent.replay(CONFIG, binary=binary) as agent:
        assert agent.exit_status is None
        assert f"pid {agent.process.pid}" in repr(agent)
        assert agent.client.url == agent.url
        assert agent.client.info().pace == "lockstep"
        assert agent.client.step(2)[1].seq == 1
    assert agent.exit_status == agent.close() == 0
    assert any("API" in line for line in agent.log_lines)
    assert not agent._drain.is_alive()


def test_a_config_as_a_dict_goes_in_by_standard_input(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIG.parent)  # what relative paths are relative to
    with Agent.replay(CONFIG, binary=binary) as agent:
        wanted = agent.client.step(5)
    config = _config(binary)
    with Agent.replay(config, binary=binary) as agent:
        assert agent.client.step(5) == wanted

    class Config:
        def to_dict(self) -> dict[str, Any]:
            return {**config, "seed": 7}

    with Agent.replay(Config(), binary=binary) as agent:
        assert agent.client.info().seed == 7


def _config(binary: Path) -> dict[str, Any]:
    """The config's keys, without a library that reads YAML."""
    done = subprocess.run(
        [binary, "check", "--json", "--config", str(CONFIG)], capture_output=True, check=True, env=environment()
    )
    config: dict[str, Any] = json.loads(done.stdout)["config"]
    return config


def test_commands_of_the_config_are_left_out_unless_they_are_wanted(binary: Path) -> None:
    with Agent.replay(CONFIG, binary=binary) as agent:
        assert agent.client.step_until(31)[-1].batch_size_by_model[MODELS[0]] == 128
    with Agent.replay(CONFIG, binary=binary, commands=None) as agent:
        assert agent.client.step_until(31)[-1].batch_size_by_model[MODELS[0]] == 64
    mine = [{"t": 1, "set_batch_size": {MODELS[0]: 32}}]
    with Agent.replay(CONFIG, binary=binary, commands=mine) as agent:
        assert agent.client.step_until(2)[-1].batch_size_by_model[MODELS[0]] == 32


def test_a_program_with_many_open_files_can_start_one(binary: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"no more than {hard} files can be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    with contextlib.ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while files.enter_context(open(os.devnull)).fileno() < 1030:
            pass
        with Agent.replay(CONFIG, binary=binary) as agent:
            assert agent.client.step()[0].seq == 0


def test_states_go_to_a_file(binary: Path, tmp_path: Path) -> None:
    out = tmp_path / "states.jsonl"
    with Agent.replay(CONFIG, binary=binary, out=out) as agent:
        states = agent.client.step(3)
    assert [json.loads(line) for line in out.read_text().splitlines()] == states.raw
    with pytest.raises(ValueError, match="name a file"):
        Agent.replay(CONFIG, binary=binary, out="-")


def test_the_log_can_be_read_along(binary: Path) -> None:
    lines: list[str] = []
    with Agent.replay(CONFIG, binary=binary, log=lines.append) as agent:
        pass
    assert lines == list(agent.log_lines)
    assert lines


@pytest.mark.parametrize(
    ("config", "message"),
    [({"models": []}, "models"), ({"no_such_key": 1}, "no_such_key"), ("/no/such/file.yaml", "no such file")],
)
def test_a_start_that_fails_says_why(binary: Path, config: Any, message: str) -> None:
    with pytest.raises(errors.StartFailed, match=message) as caught:
        Agent.replay(config, binary=binary)
    assert caught.value.exit_status == 2
    assert any(message in line for line in caught.value.log_lines)
    assert isinstance(caught.value, RuntimeError)


def test_no_program(tmp_path: Path) -> None:
    with pytest.raises(errors.StartFailed, match="cannot be run"):
        Agent.demo(binary=tmp_path / "missing")


def test_a_program_that_takes_no_requests_is_ended(tmp_path: Path) -> None:
    hanging = script(tmp_path, "import time; print('here', flush=True); time.sleep(600)")
    with pytest.raises(errors.StartFailed, match=r"within 0\.5 s") as caught:
        Agent.demo(binary=hanging, start_timeout_s=0.5)
    assert caught.value.exit_status is None or caught.value.exit_status < 0


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = script(
        tmp_path,
        TELL + "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); tell(); time.sleep(600)",
    )
    agent = Agent.demo(binary=stubborn)
    assert agent.close(timeout_s=0.2) == -signal.SIGKILL


def test_the_log_is_bounded_and_never_holds_the_agent_up(tmp_path: Path) -> None:
    chatty = script(
        tmp_path,
        TELL
        + f"""
for i in range(5000):
    print("line", i)
sys.stdout.buffer.write(b"x" * {LINE_BYTES + 10} + b"\\n" + b"\\xff\\xfe no text\\n")
sys.stdout.flush()
tell()
sys.stdin.read()
print("the last")
""",
    )
    agent = Agent.demo(binary=chatty)
    agent.process.stdin.close()  # type: ignore[union-attr]
    assert agent.process.wait(30) == 0
    agent.close()
    lines = list(agent.log_lines)
    assert len(lines) == LOG_LINES
    assert lines[-1] == "the last"
    assert lines[-2].endswith("no text")
    assert [len(line) for line in lines[-4:-2]] == [LINE_BYTES, 10]


def test_a_function_that_fails_does_not_stop_the_reading(tmp_path: Path) -> None:
    chatty = script(tmp_path, TELL + "print('one'); print('two', flush=True); tell(); sys.stdin.read()")

    def broken(line: str) -> None:
        raise ValueError("mine")

    with Agent.demo(binary=chatty, log=broken) as agent:
        agent.process.stdin.close()  # type: ignore[union-attr]
        agent.process.wait(30)
    assert list(agent.log_lines) == ["one", "(log: ValueError: mine)", "two"]


def test_arguments_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    telling = script(
        tmp_path,
        TELL
        + """
import contextlib
import json
ours = {name: value for name, value in os.environ.items() if name.startswith("G2G_AGENT_")}
print(json.dumps([sys.argv[1:-1], ours]), flush=True)
tell()
sys.stdin.read()
""",
    )
    monkeypatch.setenv("G2G_AGENT_URL", "http://h:1")  # the client's: the agent would take it for a key
    monkeypatch.setenv("G2G_AGENT_SEED", "7")

    def told(agent: Agent) -> Any:
        agent.close()
        return json.loads(agent.log_lines[0])

    here, last = os.getcwd(), [f"--exit-with-parent={os.getpid()}", "--url-file"]
    seed = {"G2G_AGENT_SEED": "7"}
    assert told(Agent.demo(binary=telling, faults=True, duration_s=5)) == [
        ["demo", "--faults", "--duration-s", "5.0", *last],
        {**seed, "G2G_AGENT_API__LISTEN": "127.0.0.1:0"},
    ]
    run = Agent.run("live.yaml", binary=telling, out="x.csv", listen="127.0.0.1:1234", env={"G2G_AGENT_SEED": "8"})
    assert told(run) == [
        ["run", "--out", f"{here}/x.csv", "--config", f"{here}/live.yaml", *last],
        {"G2G_AGENT_SEED": "8", "G2G_AGENT_API__LISTEN": "127.0.0.1:1234"},
    ]
    assert told(Agent.replay("r.yaml", pace="real_time", commands=None, binary=telling)) == [
        ["replay", "--pace", "1", "--config", f"{here}/r.yaml", *last],
        {**seed, "G2G_AGENT_API__LISTEN": "127.0.0.1:0"},
    ]


def test_simulated_servers_alone(binary: Path) -> None:
    with Agent.sim("--zeusd", "127.0.0.1:0", binary=binary) as agent:
        assert agent.url == ""
        with pytest.raises(AttributeError, match="no API"):
            _ = agent.client
        assert eventually(lambda: len(agent.log_lines) > 0)
    assert agent.exit_status == 0


def test_an_agent_that_nobody_holds_is_ended(binary: Path) -> None:
    agent = Agent.replay(CONFIG, binary=binary)
    process = agent.process
    del agent
    assert eventually(lambda: process.poll() is not None)
    assert process.returncode == 0


PARENT = """
import sys, os, signal
from g2g_agent import Agent
agent = Agent.replay(sys.argv[1], binary=sys.argv[2])
print(agent.process.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("os._exit(4)", 4),
    ],
)
def test_no_agent_outlives_its_parent(binary: Path, end: str, status: int) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT.format(end=end), str(CONFIG), str(binary)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.returncode == status
    pid = int(parent.stdout)
    assert eventually(lambda: not alive(pid))


FORK = """
import os, sys
from g2g_agent import Agent
with Agent.replay(sys.argv[1], binary=sys.argv[2]) as agent:
    client = agent.client
    assert client.step()[0].seq == 0
    stream = client.stream()
    assert next(stream).seq == 0
    child = os.fork()
    if child == 0:
        with client:         # which closes what is the child's, and no more
            assert client.step()[0].seq == 1
            client.set_batch_size({"Llama-3.1-8B": 32})
        sys.exit(0)          # which runs what is to be done at exit
    assert os.waitpid(child, 0)[1] == 0
    assert agent.exit_status is None
    client.set_batch_size({"Llama-3.1-8B": 64})  # with another key than the child's
    assert client.step()[0].batch_size_by_model["Llama-3.1-8B"] == 64
    assert [next(stream).seq, next(stream).seq] == [1, 2]
    assert stream.reconnects == 0
    stream.close()
"""


def test_a_forked_child_leaves_the_agent_alone(binary: Path) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(CONFIG), str(binary)],
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
