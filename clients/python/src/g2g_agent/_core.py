"""What both clients share, without sockets: what is asked, when it is asked again, and what the answer means.

A client drives `Core.attempts`, a generator: it yields what to do (`Send` or `Wait`) and is sent what came of it.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from g2g_agent import _ws
from g2g_agent._http import Response
from g2g_agent._version import __version__
from g2g_agent.errors import ApiError, BadAnswer, ConnectionFailed, TimedOut, error_of
from g2g_agent.models import (
    BatchSizeAnswer,
    Event,
    Health,
    Info,
    Model,
    ReplicaShift,
    ReplicaShiftAnswer,
)
from g2g_agent.state import State

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8480"
FIRST_WAIT_S, MAX_WAIT_S = 0.1, 10.0
"""Before the second attempt, and the longest before any: each wait is twice the one before."""

MAX_RETRY_AFTER_S = 120.0
"""A longer `Retry-After` is not waited for."""

READY_LOOK_S = 0.2
"""Between two looks at whether an agent is ready."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes and give back the answer, or the `ConnectionFailed` that came in its place."""

    request: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One thing to ask.

    Attributes:
        method: The HTTP method.
        path: With the query.
        decode: What the JSON of the answer means; it is given None for an empty one.
        body: The JSON to send; None: nothing.
        longer_s: How much longer than usual the answer may take.
        statuses: Statuses other than 200 that are answers and no errors.
    """

    method: str
    path: str
    decode: Callable[[Any], T]
    body: bytes | None = None
    longer_s: float = 0.0
    statuses: tuple[int, ...] = ()


class Token:
    """A token, given or in a file that is read again when the agent refuses what it said."""

    def __init__(self, token: str | None, token_file: str | os.PathLike[str] | None) -> None:
        if token is not None and token_file is not None:
            raise ValueError("token and token_file exclude each other: give one")
        # Absolute, since OpenDSS and others change the working directory.
        self._file = None if token_file is None else Path(token_file).absolute()
        self._text = None if token is None else _checked(token, "token")
        if self._file is not None:
            self.reread()

    def __repr__(self) -> str:
        return "Token(…)"

    @property
    def text(self) -> str | None:
        """The token; None: there is none."""
        return self._text

    def reread(self) -> bool:
        """Reads the file again.

        Returns:
            Whether it has another token now.
        """
        if self._file is None:
            return False
        before, self._text = self._text, _checked(self._file.read_text(encoding="utf-8").strip(), str(self._file))
        return self._text != before


def _checked(token: str, where: str) -> str:
    if not token or not all("!" <= char <= "~" for char in token):
        raise ValueError(f"{where}: a token is one word of visible ASCII characters")
    return token


class Core:
    """Where the agent is, how to speak to it, and how long to go on trying."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        token_file: str | os.PathLike[str] | None,
        ca_file: str | os.PathLike[str] | None,
        timeout_s: float,
        attempts: int,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"url: {url!r} is not like http://127.0.0.1:8480 or https://dc.example:8480")
        if parts.username is not None:
            raise ValueError("url: it must not have a user name; a token is given as token or token_file")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s: {timeout_s} is not above 0")
        if attempts < 1:
            raise ValueError(f"attempts: {attempts} is below 1")
        self.tls = parts.scheme == "https"
        if ca_file is not None and not self.tls:
            raise ValueError("ca_file: it is for https:// only")
        self.ca_file = None if ca_file is None else str(Path(ca_file).absolute())
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.base = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}{self.base}"
        self.token = Token(token, token_file)
        self.timeout_s = timeout_s
        self.max_attempts = attempts
        self._netloc = parts.netloc
        self._head: tuple[str | None, str] = (None, "")
        self._begin_keys()

    def limited(self, timeout_s: float, attempts: int) -> Core:
        """The same with other limits."""
        other = copy.copy(self)
        other.timeout_s, other.max_attempts = timeout_s, attempts
        other._begin_keys()
        return other

    def _begin_keys(self) -> None:
        # A new one for each command: cheaper than a UUID, and no other client's, in no other process.
        self._keys_of = os.getpid()
        self._key = os.urandom(9).hex()
        self._keys = itertools.count()

    def _new_key(self) -> str:
        if self._keys_of != os.getpid():  # forked: the parent goes on with its own
            self._begin_keys()
        return f"{self._key}-{next(self._keys)}"

    def request(self, method: str, path: str, body: bytes | None = None, key: str | None = None) -> bytes:
        """The bytes of a request."""
        token = self.token.text
        if self._head[0] != token or not self._head[1]:
            bearer = f"Authorization: Bearer {token}\r\n" if token else ""
            agent = f"g2g-agent-python/{__version__}"
            self._head = (token, f" HTTP/1.1\r\nHost: {self._netloc}\r\nUser-Agent: {agent}\r\n{bearer}")
        head = f"{method} {self.base}{path}{self._head[1]}"
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        if body is None:
            return (head + "Accept: application/json\r\n\r\n").encode("latin-1")
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1") + body

    def handshake(self, path: str) -> tuple[str, bytes]:
        """The key and the bytes that ask for a WebSocket."""
        key = _ws.new_key()
        head = self.request("GET", path)[:-2].decode("latin-1")
        return key, (
            f"{head}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: g2g-agent.v1\r\n\r\n"
        ).encode("latin-1")

    def attempts(self, call: Call[T]) -> Generator[Send | Wait, Response | ConnectionFailed | None, T]:
        """Asks until it is answered, or the attempts are used up.

        Everything may be asked twice: what changes something has an `Idempotency-Key`, which stays the same.

        Yields:
            What to do next.

        Returns:
            What the answer means.

        Raises:
            ApiError: The agent would not or could not.
            ConnectionFailed: It could not be reached, or no good answer came.
        """
        key = self._new_key() if call.body is not None else None
        timeout_s = self.timeout_s + call.longer_s
        waits, reread = 0, False
        while True:
            outcome = yield Send(self.request(call.method, call.path, call.body, key), timeout_s)
            assert outcome is not None
            if not isinstance(outcome, ConnectionFailed):
                if outcome.status in (401, 403) and not reread and self.token.reread():
                    reread = True
                    continue
                try:
                    if outcome.status == 200 or outcome.status in call.statuses:
                        return _meaning(call, outcome)
                except ConnectionFailed as err:
                    outcome = err
            wait_s = self._wait_s(outcome, waits)
            waits += 1
            if wait_s is None or waits >= self.max_attempts:
                raise outcome if isinstance(outcome, ConnectionFailed) else problem_of(outcome)
            yield Wait(wait_s)

    def _wait_s(self, outcome: Response | ConnectionFailed, waits: int) -> float | None:
        """How long to wait before the next attempt; None: the answer stands."""
        backoff_s: float = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**waits) * random.uniform(0.5, 1.0)
        if isinstance(outcome, ConnectionFailed):
            return backoff_s
        after_s = retry_after_s(outcome)
        if after_s is not None and after_s > MAX_RETRY_AFTER_S:
            return None
        if outcome.status == 429:
            return backoff_s if after_s is None else after_s
        if outcome.status == 503:
            # Before the first step there is no telling how long it takes, or who is to make it.
            return None if after_s is None or problem_of(outcome).code == "no-state" else after_s
        if outcome.status == 408 or (outcome.status == 409 and problem_of(outcome).code == "in-progress"):
            return backoff_s if after_s is None else after_s
        return None


def retry_after_s(response: Response) -> float | None:
    """What `Retry-After` says, in seconds; None if it is missing or a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def problem_of(response: Response) -> ApiError:
    """The error that an answer means."""
    try:
        body = json.loads(response.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        text = response.body[:200].decode("utf-8", "replace").strip()
        body = {"detail": text or "the answer has no body"}
    return error_of(response.status, body, retry_after_s(response))


def _meaning(call: Call[T], response: Response) -> T:
    try:
        raw = json.loads(response.body) if response.body else None
    except ValueError as err:
        raise BadAnswer(
            f"the answer to {call.method} {call.path} is no JSON ({err}); it begins with {response.body[:40]!r}"
        ) from None
    return decoded(call.decode, raw, f"{call.method} {call.path}")


def decoded(decode: Callable[[Any], T], raw: Any, what: str) -> T:
    """What JSON means.

    Raises:
        BadAnswer: It is not what was asked for.
    """
    try:
        return decode(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BadAnswer(f"the answer to {what} is not what an agent answers ({type(err).__name__}: {err})") from err


def _states(raw: Any) -> list[State]:
    return [State.from_json(state) for state in raw]


def query(path: str, **parameters: Any) -> str:
    """A path with the parameters that are not None."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path


def body_of(**members: Any) -> bytes:
    """A JSON object of the members that are not None.

    Raises:
        ValueError: A value cannot be sent as JSON, as NaN cannot.
    """
    given = {name: value for name, value in members.items() if value is not None}
    try:
        return json.dumps(given, allow_nan=False, separators=(",", ":"), default=_plain).encode()
    except (TypeError, ValueError) as err:
        # A ValueError says of NaN and infinity only that JSON has them not.
        what = f"{given} has a number that is not finite" if isinstance(err, ValueError) else str(err)
        raise ValueError(f"{what}: JSON takes finite numbers, text, and dicts and lists of them") from None


def _plain(value: Any) -> Any:
    """NumPy's numbers and fractions as Python's; mappings as dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "numerator") and hasattr(value, "denominator"):
        return float(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def from_env(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a client: those given, and what the environment says beside them."""
    found: dict[str, Any] = {"url": os.environ.get("G2G_AGENT_URL") or DEFAULT_URL}
    if "token" not in options and "token_file" not in options:
        found["token"] = os.environ.get("G2G_AGENT_TOKEN") or None
        found["token_file"] = os.environ.get("G2G_AGENT_TOKEN_FILE") or None
        if found["token"] and found["token_file"]:
            raise ValueError("G2G_AGENT_TOKEN and G2G_AGENT_TOKEN_FILE exclude each other: unset one")
    return {**found, **options}


class WaitReady:
    """When to look again, and when to give up, while an agent is getting ready."""

    def __init__(self, url: str, timeout_s: float, now_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._until_s = now_s + timeout_s

    def after(self, health: Health | ConnectionFailed, now_s: float) -> float | None:
        """How long to wait before the next look, in seconds; None: it is ready.

        Raises:
            TimedOut: The time is up.
        """
        if isinstance(health, Health) and health.ok:
            return None
        if now_s >= self._until_s:
            why = str(health) if isinstance(health, ConnectionFailed) else "; ".join(health.reasons)
            raise TimedOut(f"{self._url}: not ready after {self._timeout_s:g} s: {why}")
        return min(READY_LOOK_S, self._until_s - now_s)


def get_info() -> Call[Info]:
    """What the agent is."""
    return Call("GET", "/v1/info", Info.from_json)


def get_models() -> Call[dict[str, Model]]:
    """The models, by label, in config order."""
    return Call("GET", "/v1/models", lambda raw: {model["model_label"]: Model.from_json(model) for model in raw})


def get_state() -> Call[State]:
    """The latest state."""
    return Call("GET", "/v1/state", State.from_json)


def await_state(after: int, wait_s: float) -> Call[State | None]:
    """The latest state, once it is later than one; None if none came."""
    return Call(
        "GET",
        query("/v1/state", after=after, wait_s=wait_s),
        lambda raw: None if raw is None else State.from_json(raw),
        longer_s=wait_s,
        statuses=(204,),
    )


def get_history(n: int | None) -> Call[list[State]]:
    """The latest states, oldest first."""
    return Call("GET", query("/v1/history", n=n), _states)


def get_events(n: int | None, after: int | None, wait_s: float | None) -> Call[list[Event]]:
    """The latest events, oldest first."""
    return Call(
        "GET",
        query("/v1/events", n=n, after=after, wait_s=wait_s),
        lambda raw: [Event.from_json(event) for event in raw],
        longer_s=wait_s or 0.0,
    )


def get_ready() -> Call[Health]:
    """Whether states can be relied on."""
    return Call("GET", "/readyz", lambda raw: Health(raw["status"] == "ok", tuple(raw["reasons"])), statuses=(503,))


def post_batch_sizes(
    batch_size_by_model: Mapping[str, int], ramp_up_rate_by_model: Mapping[str, float] | None, lease_s: float | None
) -> Call[BatchSizeAnswer]:
    """Sets batch sizes."""
    body = body_of(
        batch_size_by_model=batch_size_by_model, ramp_up_rate_by_model=ramp_up_rate_by_model, lease_s=lease_s
    )
    return Call("POST", "/v1/batch-sizes", BatchSizeAnswer.from_json, body)


def post_replica_shift(model_label: str, replica_delta: int, lease_s: float | None) -> Call[ReplicaShiftAnswer]:
    """Shifts replicas."""
    body = body_of(model_label=model_label, replica_delta=replica_delta, lease_s=lease_s)
    return Call("POST", "/v1/replica-shifts", ReplicaShiftAnswer.from_json, body)


def post_restore() -> Call[BatchSizeAnswer]:
    """Back to initial batch sizes and no shifts."""
    return Call("POST", "/v1/restore", BatchSizeAnswer.from_json, b"{}")


def post_reset(body: bytes) -> Call[Info]:
    """Begins a replay in lockstep anew."""
    return Call("POST", "/v1/reset", Info.from_json, body)


def reset_body(
    *,
    seed: int | None,
    replicas: Mapping[str, Any] | None,
    initial_batch_sizes: Mapping[str, int] | None,
    training: Iterable[Mapping[str, Any]] | None,
    duration_s: float | None,
) -> bytes:
    """The body of a reset."""
    return body_of(
        seed=seed,
        replicas=replicas,
        initial_batch_sizes=initial_batch_sizes,
        training=None if training is None else [dict(run) for run in training],
        duration_s=duration_s,
    )


def steps_body(
    *,
    n: int | None = None,
    until_s: float | None = None,
    batch_size_by_model: Mapping[str, int] | None = None,
    ramp_up_rate_by_model: Mapping[str, float] | None = None,
    lease_s: float | None = None,
    replica_shifts: Iterable[ReplicaShift] = (),
    fields: Iterable[str] | None = None,
    columns: bool = False,
) -> bytes:
    """The body that asks for steps, with the commands to be carried out before the first of them."""
    shifts = [
        {
            "model_label": shift.model_label,
            "replica_delta": shift.replica_delta,
            **({} if shift.lease_s is None else {"lease_s": shift.lease_s}),
        }
        for shift in replica_shifts
    ]
    return body_of(
        steps=n,
        until_s=until_s,
        batch_size_by_model=batch_size_by_model or None,
        ramp_up_rate_by_model=ramp_up_rate_by_model or None,
        lease_s=lease_s,
        replica_shifts=shifts or None,
        fields=None if fields is None else list(fields),
        layout="columns" if columns else None,
    )
