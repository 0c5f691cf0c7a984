"""What goes wrong on real sockets, with both clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fake import INFO, Connection, Fake, Request, answered, cut, problem, response, state
from g2g_agent import Agent, AsyncClient, Client, errors

Connect = Callable[..., Any]


def test_one_connection_is_kept(fake: Fake, connect: Connect) -> None:
    client = connect(fake.url)
    for _ in range(5):
        assert client.info().name == "fake"
    assert fake.connections == 1


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(fake: Fake, connect: Connect) -> None:
    client = connect(fake.url, attempts=1)
    client.info()
    fake.cut_all()
    assert client.info().name == "fake"
    assert fake.connections == 2


def test_an_answer_that_breaks_off_is_asked_for_again(fake: Fake, connect: Connect) -> None:
    whole = response(200, INFO)

    def broken(connection: Connection, request: Request) -> None:
        connection.send(whole[:-10])
        connection.cut()

    fake.then("/v1/info", cut, broken)
    assert connect(fake.url).info().name == "fake"
    assert len(fake.asked("/v1/info")) == 3


def test_a_command_is_sent_again_with_its_key(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/batch-sizes", cut, problem(503, "ending", Retry_After="0"), problem(429, Retry_After="0"))
    fake.always("/v1/batch-sizes", response(200, answered()))
    answer = connect(fake.url).set_batch_size({"m": 8})
    assert answer.batch_size_by_model == {"m": 8}
    asked = fake.asked("/v1/batch-sizes")
    assert len(asked) == 4
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert [request.json for request in asked] == [{"batch_size_by_model": {"m": 8}}] * 4


def test_garbage_is_no_agent(fake: Fake, connect: Connect) -> None:
    def garbage(connection: Connection, request: Request) -> None:
        connection.send(b"220 smtp.example ESMTP\r\n")
        connection.cut()

    fake.always("/v1/info", garbage)
    with pytest.raises(errors.BadAnswer, match="220 smtp"):
        connect(fake.url, attempts=2).info()
    fake.always("/v1/info", response(200, b"\xff\xfe"))
    with pytest.raises(errors.BadAnswer, match="JSON"):
        connect(fake.url, attempts=1).info()
    fake.always("/v1/info", response(200, {"status": "ok"}))
    with pytest.raises(errors.BadAnswer, match="info"):
        connect(fake.url, attempts=1).info()


def test_an_answer_that_trickles_in_ends_at_the_timeout(fake: Fake, connect: Connect) -> None:
    enough = threading.Event()

    def trickle(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not enough.wait(0.02):
            connection.send(b" ")

    fake.always("/v1/info", trickle)
    try:
        with pytest.raises(errors.TimedOut, match=r"0\.2 s"):
            connect(fake.url, attempts=1, timeout_s=0.2).info()
    finally:
        enough.set()


def test_nobody_listens(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(errors.ConnectionFailed, match=f"{port}.*does the agent run"):
        connect(f"http://127.0.0.1:{port}", attempts=1).info()


def test_what_is_answered_without_length_is_understood(fake: Fake, connect: Connect) -> None:
    def old(connection: Connection, request: Request) -> None:
        connection.send(response(200, INFO).replace(b"Content-Length", b"X-Length"))
        connection.cut()

    fake.always("/v1/info", old)
    client = connect(fake.url)
    assert client.info().name == client.info().name == "fake"


def test_errors_come_out_as_their_classes(fake: Fake, connect: Connect) -> None:
    client = connect(fake.url)
    fake.always("/v1/replica-shifts", problem(409, "no-capacity", "8 GPUs are free"))
    with pytest.raises(errors.NoCapacity, match="8 GPUs are free"):
        client.shift_replicas("m", 5)
    fake.always("/v1/replica-shifts", problem(404, "unknown-model"))
    with pytest.raises(KeyError):
        client.shift_replicas("x", 5)
    fake.always("/v1/state", problem(503, "no-state"))
    with pytest.raises(errors.Unavailable):
        client.state()


def test_a_token_is_sent_and_read_again(fake: Fake, connect: Connect, tmp_path: Any) -> None:
    file = tmp_path / "token"
    file.write_text("old")

    def guarded(connection: Connection, request: Request) -> None:
        good = request.headers["authorization"] == "Bearer new"
        connection.send(response(200, INFO) if good else problem(401, "unauthorized"))

    fake.always("/v1/info", guarded)
    client = connect(fake.url, token_file=file)
    with pytest.raises(errors.NotPermitted):
        client.info()
    file.write_text("new")
    assert client.info().name == "fake"


def test_long_polls_may_take_longer_than_the_timeout(fake: Fake, connect: Connect) -> None:
    client = connect(fake.url, timeout_s=0.2, attempts=1)
    later = threading.Event()

    def slow(connection: Connection, request: Request) -> None:
        later.wait(0.5)
        connection.send(response(200, state(5)))

    fake.then("/v1/state", slow)
    assert client.next_state(4, wait_s=5).seq == 5
    assert fake.asked("/v1/state")[0].path == "/v1/state?after=4&wait_s=5"
    fake.then("/v1/state", response(204))
    assert client.next_state(5, wait_s=0) is None


def test_a_client_that_is_closed_says_so(fake: Fake, connect: Connect) -> None:
    client = connect(fake.url, attempts=1)
    client.info()
    client.close()
    with pytest.raises(errors.ConnectionFailed, match="closed"):
        client.info()
    with pytest.raises(errors.ConnectionFailed, match="closed"):
        client.stream()


def test_an_async_client_in_another_loop_says_so(replay: Agent) -> None:
    client = AsyncClient(replay.url)
    stream = client.stream()

    async def first() -> None:
        await client.step()
        await stream.__anext__()
        await client._lockstep.disconnect()
        await stream.close()
        await client._connections.close()

    asyncio.run(first())
    for ask in (client.info, client.step, client.stream().__anext__):
        with pytest.raises(RuntimeError, match="another event loop: make one in each"):
            asyncio.run(ask())


def test_closing_ends_the_wait_for_another_attempt(fake: Fake) -> None:
    fake.always("/v1/info", problem(503, Retry_After="100"))
    client = Client(fake.url)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            client.info()
        except errors.AgentError as err:
            failed.append(err)

    thread = threading.Thread(target=ask)
    thread.start()
    while not fake.asked("/v1/info"):
        thread.join(0.01)
    client.close()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(failed[0], errors.AgentError)


def test_threads_share_a_client(fake: Fake) -> None:
    barrier = threading.Barrier(8)
    fake.always("/v1/history", response(200, [state(i) for i in range(50)]))
    fake.always("/v1/batch-sizes", response(200, answered()))
    wrong: list[Any] = []
    with Client(fake.url) as client:

        def work() -> None:
            barrier.wait()
            for _ in range(20):
                if client.info().name != "fake" or len(client.history(50)) != 50:
                    wrong.append("mixed up")
                client.set_batch_size({"m": 8})

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert fake.connections <= 8 + 8
    keys = [request.headers["idempotency-key"] for request in fake.asked("/v1/batch-sizes")]
    assert len(set(keys)) == len(keys) == 160


def test_from_env(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2G_AGENT_URL", fake.url)
    monkeypatch.setenv("G2G_AGENT_TOKEN", "t0ken")
    with Client.from_env() as client:
        assert client.info().name == "fake"
        assert "t0ken" not in repr(client)
    assert fake.requests[0].headers["authorization"] == "Bearer t0ken"
