"""Answers out of bytes."""

from __future__ import annotations

import random

import pytest

from g2g_agent._http import MAX_HEAD, ResponseParser
from g2g_agent.errors import BadAnswer

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Some: thing\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
TRAILER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-After: all\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


@pytest.mark.parametrize("data", [PLAIN, CHUNKED, TRAILER, INTERIM])
def test_an_answer_is_the_same_however_its_bytes_come(data: bytes) -> None:
    rng = random.Random(1)
    for size in [1, 2, 3, 7, len(data), *(rng.randrange(1, len(data)) for _ in range(50))]:
        parser = ResponseParser()
        parts = [data[i : i + size] for i in range(0, len(data), size)]
        assert [parser.feed(part) for part in parts] == [False] * (len(parts) - 1) + [True]
        assert (parser.response.status, parser.response.body, parser.rest) == (200, b"hello", b"")
        assert parser.keep_alive


def test_headers_are_known_in_small_letters() -> None:
    parser = ResponseParser()
    parser.feed(PLAIN)
    assert parser.response.headers == {"content-length": "5", "x-some": "thing"}


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    parser = ResponseParser()
    assert not parser.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    assert not parser.feed(b"lo")
    assert parser.feed(b"")
    assert parser.response.body == b"hello"
    assert not parser.keep_alive


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_whether_the_connection_is_kept(head: bytes, kept: bool) -> None:
    parser = ResponseParser()
    assert parser.feed(head + b"\r\n")
    assert parser.keep_alive is kept


def test_a_connection_with_more_than_the_answer_is_not_kept() -> None:
    parser = ResponseParser()
    assert parser.feed(PLAIN + b"HTTP/1.1 200 OK\r\n")
    assert not parser.keep_alive


def test_what_comes_behind_a_handshake_is_the_rest() -> None:
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00")
    assert parser.rest == b"\x81\x00"


@pytest.mark.parametrize(
    "data",
    [b"", b"HT", b"HTTP/1.1 200 OK\r\n", PLAIN[:-1], CHUNKED[:-1], CHUNKED[:-20]],
)
def test_a_connection_that_ends_within_the_answer_is_no_answer(data: bytes) -> None:
    parser = ResponseParser()
    if data:
        assert not parser.feed(data)
    with pytest.raises(EOFError):
        parser.feed(b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "no HTTP"),
        (b"\x16\x03\x01", "no HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "no HTTP"),
        (b"HTTP/2 200\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "colon"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n", "fewer states"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * (MAX_HEAD + 1), "endless line"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * (MAX_HEAD + 1), "trailer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD + 1), "no HTTP"),
    ],
)
def test_what_is_no_http_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadAnswer, match=message):
        ResponseParser().feed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello world",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n",
    ],
)
def test_a_body_is_bounded(data: bytes) -> None:
    with pytest.raises(BadAnswer, match="more than 10 bytes"):
        ResponseParser(max_body=10).feed(data)


def test_garbage_never_does_anything_but_fail() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        data = bytearray(rng.choice([PLAIN, CHUNKED, TRAILER]))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        parser = ResponseParser(max_body=1000)
        try:
            if not parser.feed(bytes(data)):
                parser.feed(b"")
        except (BadAnswer, EOFError):
            continue
        assert parser.done
