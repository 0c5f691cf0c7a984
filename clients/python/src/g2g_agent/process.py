"""Runs the agent's program."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypedDict, Union, runtime_checkable

from g2g_agent.binary import environment, find_binary
from g2g_agent.client import Client
from g2g_agent.errors import StartFailed

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Agent"]

LOG_LINES = 1000
"""Lines of the log that are kept."""

LINE_BYTES = 64 << 10
"""A longer line of the log is kept in parts of so many bytes."""


@runtime_checkable
class AsDict(Protocol):
    """A config that tells its keys, as `g2g_agent.config.Config` does."""

    def to_dict(self) -> dict[str, Any]:
        """The keys and values of the config, as they stand in YAML."""
        ...


ConfigLike = Union[str, "os.PathLike[str]", Mapping[str, Any], AsDict]


class Options(TypedDict, total=False):
    """What all ways to start an agent take.

    Attributes:
        listen: Where its API listens; any free port of this host if it is not given.
        binary: The program; `find_binary()` if it is not given.
        log: Called with each line that the agent writes, in a thread of its own.
        env: Variables for the agent's environment, such as `G2G_AGENT_SEED`.
        token_file: The file of a token for the client, if the config asks for one.
        ca_file: Certificates for the client to trust, if the config has the API speak TLS.
        start_timeout_s: How long it may take until requests are taken, in seconds; 60 if it is not given.
    """

    listen: str | None
    binary: str | os.PathLike[str] | None
    log: Callable[[str], object] | None
    env: Mapping[str, str] | None
    token_file: str | os.PathLike[str] | None
    ca_file: str | os.PathLike[str] | None
    start_timeout_s: float


class Agent:
    """An agent that runs as a process of its own, and ends with this one.

    Made by `replay`, `run`, `demo` or `sim`. The end of the context manager, `close`, and the end of this program, even
    by SIGKILL, end it.

    Attributes:
        log_lines: The last 1,000 lines that it wrote.
        process: The process.
    """

    def __init__(
        self, arguments: Sequence[str], config: ConfigLike | None, *, serves: bool = True, **options: Unpack[Options]
    ) -> None:
        self.log_lines: deque[str] = deque(maxlen=LOG_LINES)
        self._client: Client | None = None
        self._url = ""
        binary = options.get("binary")
        path = find_binary() if binary is None else Path(binary).absolute()
        command = [str(path), *arguments]
        text = _config_arguments(config, command)
        # With the number, it also ends if this program is gone before it first looks.
        command.append(f"--exit-with-parent={os.getpid()}")
        env = {**environment(), **(options.get("env") or {})}
        urls, urls_end = os.pipe()
        try:
            if serves:
                command += ["--url-file", f"/dev/fd/{urls_end}"]
                env["G2G_AGENT_API__LISTEN"] = options.get("listen") or "127.0.0.1:0"
            self.process: subprocess.Popen[bytes] = _started(command, env, urls_end)
        except BaseException:
            os.close(urls)
            raise
        finally:
            os.close(urls_end)
        assert self.process.stdout is not None
        self._drain = threading.Thread(
            target=_drained,
            args=(self.process.stdout, self.log_lines, options.get("log")),
            name="g2g-agent-log",
            daemon=True,  # it ends with the process; _end waits for it
        )
        self._drain.start()
        self._finalizer = weakref.finalize(self, _end, self.process, self._drain, os.getpid())
        try:
            if text is not None:
                self._hand_over(text)
            if serves:
                self._url = self._await_url(urls, options.get("start_timeout_s", 60.0))
                self._client = Client(self._url, token_file=options.get("token_file"), ca_file=options.get("ca_file"))
        except BaseException:
            self._finalizer()
            raise
        finally:
            os.close(urls)

    @classmethod
    def replay(
        cls,
        config: ConfigLike,
        *,
        pace: Literal["step", "real_time"] = "step",
        commands: Iterable[Mapping[str, Any]] | None = (),
        out: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> Agent:
        """Replays recorded data.

        Args:
            config: The path of a config, its keys as a dict, or a `Config`. Relative paths in a dict are relative to
                the working directory.
            pace: `step`: as `client.step` asks; `real_time`.
            commands: What the config scripts (`replay.commands`); nothing if it is not given, None: as the config says.
            out: A file for the states, which ends in `.csv`, `.jsonl` or `.parquet`.
            options: As in `Options`.

        Raises:
            StartFailed: It did not start; the error has what it wrote.
            FileNotFoundError: There is no program.
        """
        arguments = ["replay", "--pace", "step" if pace == "step" else "1", *_out(out)]
        if commands is not None:
            scripted = json.dumps([dict(command) for command in commands])
            options["env"] = {"G2G_AGENT_REPLAY__COMMANDS": scripted, **(options.get("env") or {})}
        return cls(arguments, config, **options)

    @classmethod
    def run(
        cls,
        config: ConfigLike,
        *,
        duration_s: float | None = None,
        out: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> Agent:
        """Runs live on real hardware.

        Args:
            config: As for `replay`.
            duration_s: How long, in seconds; until it is ended if it is not given.
            out: As for `replay`.
            options: As in `Options`.

        Raises:
            StartFailed: It did not start; the error has what it wrote.
            FileNotFoundError: There is no program.
        """
        return cls(["run", *_duration(duration_s), *_out(out)], config, **options)

    @classmethod
    def demo(
        cls,
        *,
        faults: bool = False,
        duration_s: float | None = None,
        out: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> Agent:
        """Runs live on simulated hardware: three models of 2,304 GPUs.

        Args:
            faults: Let hosts fail now and then.
            duration_s: How long, in seconds; until it is ended if it is not given.
            out: As for `replay`.
            options: As in `Options`.

        Raises:
            StartFailed: It did not start; the error has what it wrote.
            FileNotFoundError: There is no program.
        """
        arguments = ["demo", *(["--faults"] if faults else []), *_duration(duration_s), *_out(out)]
        return cls(arguments, None, **options)

    @classmethod
    def sim(cls, *arguments: str, **options: Unpack[Options]) -> Agent:
        """Runs simulated servers alone. It has no API and no client; where servers listen is said in `log_lines`.

        Args:
            arguments: As on the command line of `g2g-agent sim`.
            options: As in `Options`.
        """
        return cls(["sim", *arguments], None, serves=False, **options)

    @property
    def url(self) -> str:
        """Where its API is, such as `http://127.0.0.1:34567`; empty for `sim`."""
        return self._url

    @property
    def client(self) -> Client:
        """A client of it.

        Raises:
            AttributeError: It is a `sim`, which has no API.
        """
        if self._client is None:
            raise AttributeError("simulated servers alone have no API")
        return self._client

    @property
    def exit_status(self) -> int | None:
        """Its exit status, below 0 the signal that ended it; None while it runs."""
        return self.process.poll()

    def __repr__(self) -> str:
        status = self.process.poll()
        return f"Agent({self._url!r}, {f'pid {self.process.pid}' if status is None else f'ended with {status}'})"

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, timeout_s: float = 10.0) -> int:
        """Ends the process in order, and waits for its end and for the last line of its log.

        Args:
            timeout_s: How long the orderly end may take, in seconds; then it is killed.

        Returns:
            Its exit status, below 0 the signal that ended it.
        """
        if self._client is not None:
            self._client.close()
        if self._finalizer.detach() is not None:
            _end(self.process, self._drain, os.getpid(), timeout_s)
        return self.process.wait()

    def _hand_over(self, text: bytes) -> None:
        assert self.process.stdin is not None
        # It may have ended before it read all; the log says why.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _await_url(self, urls: int, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        readable = select.poll()  # select.select takes no file above number 1023
        readable.register(urls, select.POLLIN)
        said = b""
        while not said.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not readable.poll(1000 * left_s):
                raise self._start_failed(f"it took no requests within {timeout_s:g} s", 0.0)
            more = os.read(urls, 4096)
            if not more:
                raise self._start_failed("it ended before it took requests", 5.0)
            said += more
        return said.decode().strip()

    def _start_failed(self, what: str, wait_s: float) -> StartFailed:
        try:
            status: int | None = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            status = None
        _end(self.process, self._drain, os.getpid())
        ended = f", exit status {status}" if status is not None else ""
        return StartFailed(
            f"g2g-agent did not start: {what}{ended}", exit_status=status, log_lines=list(self.log_lines)[-50:]
        )


def _config_arguments(config: ConfigLike | None, command: list[str]) -> bytes | None:
    """Adds the arguments that name the config; returns what is to be written to standard input."""
    if config is None:
        return None
    if isinstance(config, (str, os.PathLike)):
        command += ["--config", str(Path(config).absolute())]
        return None
    keys = config.to_dict() if isinstance(config, AsDict) else dict(config)
    command += ["--config", "-"]
    return json.dumps(keys, default=str).encode()  # JSON is YAML


def _out(out: str | os.PathLike[str] | None) -> list[str]:
    if out is None:
        return []
    if os.fspath(out) == "-":
        raise ValueError('out: "-" would mix states with the log: name a file')
    return ["--out", str(Path(out).absolute())]


def _duration(duration_s: float | None) -> list[str]:
    return [] if duration_s is None else ["--duration-s", str(float(duration_s))]


def _started(command: list[str], env: Mapping[str, str], urls_end: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            # Held open: that it ends tells the agent that this program has.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(urls_end,),
            env=env,
            # Ctrl-C, or a notebook's interrupt, is for this program alone.
            start_new_session=True,
        )
    except OSError as err:
        raise StartFailed(f"{command[0]} cannot be run: {err.strerror}") from err


def _drained(pipe: IO[bytes], lines: deque[str], log: Callable[[str], object] | None) -> None:
    """Reads the agent's log to its end, so that the agent never waits for a reader."""
    with pipe:
        while line := pipe.readline(LINE_BYTES):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(text)
            if log is not None:
                try:
                    log(text)
                except Exception as err:  # the reader must go on, whatever the caller's function does
                    lines.append(f"(log: {type(err).__name__}: {err})")
                    log = None


def _end(process: subprocess.Popen[bytes], drain: threading.Thread, owner: int, timeout_s: float = 10.0) -> None:
    """Ends the process: in order, or by SIGKILL when that takes too long."""
    if owner != os.getpid():
        return  # in a process that was forked from the owner
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    drain.join(timeout_s)
