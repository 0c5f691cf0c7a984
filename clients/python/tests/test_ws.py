"""WebSocket frames."""

from __future__ import annotations

import random

import pytest

from fake import client_frame, server_frame
from g2g_agent import _ws
from g2g_agent._http import Response
from g2g_agent.errors import BadAnswer


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 65535, 65536, 70001])
def test_a_frame_is_masked_and_whole(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    frames = [_ws.frame(_ws.TEXT, payload) for _ in range(2)]
    for frame in frames:
        assert frame[0] == 0x81
        assert client_frame(frame) == (_ws.TEXT, payload, len(frame))
    assert frames[0] != frames[1], "each frame has a key of its own"


def test_leading_and_trailing_zeros_survive_the_mask() -> None:
    for payload in (b"\x00" * 9, b"\x00\x00a\x00\x00"):
        parsed = client_frame(_ws.frame(_ws.BINARY, payload))
        assert parsed is not None
        assert parsed[1] == payload


MESSAGES: list[tuple[int, bytes]] = [
    (_ws.TEXT, b"one"),
    (_ws.PING, b"p"),
    (_ws.TEXT, b"x" * 200),
    (_ws.BINARY, b"y" * 70000),
    (_ws.TEXT, b""),
    (_ws.CLOSE, b"\x03\xe9bye"),
]


def test_messages_are_the_same_however_their_bytes_come() -> None:
    data = b"".join(server_frame(*message) for message in MESSAGES)
    for size in (1000, 65536, 70000, len(data)):
        decoder = _ws.Decoder()
        got = []
        for i in range(0, len(data), size):
            decoder.feed(data[i : i + size])
            while (message := decoder.next()) is not None:
                got.append(message)
        assert got == MESSAGES
    decoder = _ws.Decoder()
    for byte in data[:300]:
        decoder.feed(bytes((byte,)))
    assert [decoder.next() for _ in range(3)] == MESSAGES[:3]


def test_a_message_in_parts_with_a_ping_between() -> None:
    decoder = _ws.Decoder()
    decoder.feed(server_frame(_ws.TEXT, b"he", final=False))
    decoder.feed(server_frame(_ws.PING, b"!"))
    decoder.feed(server_frame(0, b"ll", final=False))
    assert decoder.next() == (_ws.PING, b"!")
    assert decoder.next() is None
    decoder.feed(server_frame(0, b"o"))
    assert decoder.next() == (_ws.TEXT, b"hello")


def test_quick_takes_whole_text_messages_alone() -> None:
    whole = server_frame(_ws.TEXT, b"x" * 200)
    assert _ws.Decoder().quick(server_frame(_ws.TEXT, b"hi")) == b"hi"
    assert _ws.Decoder().quick(whole) == b"x" * 200
    for other in (
        b"",
        b"\x81",
        whole[:-1],
        whole + b"\x81",
        server_frame(_ws.BINARY, b"hi"),
        server_frame(_ws.PING, b""),
        server_frame(_ws.TEXT, b"hi", final=False),
        server_frame(_ws.TEXT, b"x" * 70000),
    ):
        assert _ws.Decoder().quick(other) is None
    under_way = _ws.Decoder()
    under_way.feed(server_frame(_ws.TEXT, b"he", final=False))
    assert under_way.quick(server_frame(_ws.TEXT, b"hi")) is None


def test_missing_says_how_much_of_a_frame_has_not_come() -> None:
    data = server_frame(_ws.TEXT, b"x" * 70000)
    decoder = _ws.Decoder()
    decoder.feed(data[:5])
    assert decoder.missing() == 0
    decoder.feed(data[5:1000])
    assert decoder.missing() == len(data) - 1000


@pytest.mark.parametrize(
    "data",
    [
        bytes((0xC1, 0)),  # a reserved bit
        bytes((0x81, 0x80)),  # masked
        bytes((0x83, 0)),  # no such opcode
        bytes((0x8B, 0)),
        bytes((0x09, 0)),  # a ping in parts
        bytes((0x89, 126, 0, 200)),  # a long ping
        bytes((0x80, 0)),  # goes on where nothing began
        server_frame(_ws.TEXT, b"a", final=False) + server_frame(_ws.TEXT, b"b"),
    ],
)
def test_what_breaks_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        _ws.Decoder().feed(data)


@pytest.mark.parametrize(
    "data",
    [
        server_frame(_ws.TEXT, b"x" * 11),
        server_frame(_ws.TEXT, b"x" * 6, final=False) + server_frame(0, b"x" * 6),
        bytes((0x81, 127)) + (1 << 62).to_bytes(8, "big"),
    ],
)
def test_a_message_is_bounded(data: bytes) -> None:
    with pytest.raises(BadAnswer, match="more than 10 bytes"):
        _ws.Decoder(max_message=10).feed(data)


def test_garbage_never_does_anything_but_fail() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        decoder = _ws.Decoder(max_message=1000)
        try:
            for _ in range(5):
                data = rng.randbytes(rng.randrange(1, 20))
                decoder.quick(data)
                decoder.feed(data)
        except BadAnswer:
            continue


def test_the_handshake_is_checked() -> None:
    # The example of RFC 6455, section 1.3.
    key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    good = {"upgrade": "WebSocket", "connection": "Upgrade", "sec-websocket-accept": accept}
    _ws.check_handshake(Response(101, good), key)
    for bad in (
        {},
        {**good, "upgrade": "h2c"},
        {**good, "sec-websocket-accept": "x"},
        {**good, "sec-websocket-extensions": "permessage-deflate"},
    ):
        with pytest.raises(BadAnswer):
            _ws.check_handshake(Response(101, bad), key)


def test_goodbyes_in_words() -> None:
    assert (
        _ws.goodbye(b"\x03\xe9the agent is ending") == "the agent closed the WebSocket (code 1001) the agent is ending"
    )
    assert _ws.goodbye(b"") == "the agent closed the WebSocket (code 1005)"
    frame = client_frame(_ws.close_frame())
    assert frame is not None
    assert frame[:2] == (_ws.CLOSE, b"\x03\xe8")
