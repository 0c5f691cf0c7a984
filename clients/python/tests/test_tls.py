"""Over TLS, with both clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import CONFIG
from g2g_agent import Agent, errors

Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        reason = "openssl is missing, which makes the certificate"
        pytest.fail(reason) if os.environ.get("G2GTEST_REQUIRE_TOOLS") == "1" else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=agent"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(["openssl", *make.split(), *more], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def secured(binary: Path, certificate: tuple[Path, Path]) -> Iterator[Agent]:
    env = {"G2G_AGENT_API__TLS_CERT_FILE": str(certificate[0]), "G2G_AGENT_API__TLS_KEY_FILE": str(certificate[1])}
    with Agent.replay(CONFIG, binary=binary, env=env, ca_file=certificate[0]) as agent:
        yield agent


def test_all_is_spoken_over_tls(secured: Agent, connect: Connect, certificate: tuple[Path, Path]) -> None:
    assert secured.url.startswith("https://127.0.0.1:")
    secured.client.reset()
    client = connect(secured.url, ca_file=certificate[0])
    assert client.info().name == client.info().name
    assert [state.seq for state in client.step(3)] == [0, 1, 2]
    assert client.step()[0].seq == 3
    assert len(client.step(500).columns["seq"]) == 500  # larger than a record of TLS
    with client.stream(reconnect=False) as states:
        assert next(states).seq == 503


def test_a_certificate_that_is_not_trusted_is_refused(secured: Agent, connect: Connect) -> None:
    with pytest.raises(errors.ConnectionFailed, match=r"certificate.*: ca_file names"):
        connect(secured.url, attempts=1).info()


def test_a_file_of_certificates_that_has_none_is_named(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(FileNotFoundError, match=str(file)):
        connect("https://127.0.0.1:1", ca_file=file)
    file.write_text("none")
    with pytest.raises(ValueError, match=f"ca_file: {file} has no certificates"):
        connect("https://127.0.0.1:1", ca_file=file)


def test_tls_where_none_is_spoken(
    binary: Path, connect: Connect, certificate: tuple[Path, Path], replay: Agent
) -> None:
    url = replay.url.replace("http:", "https:")
    with pytest.raises(errors.ConnectionFailed):
        connect(url, attempts=1, ca_file=certificate[0]).info()


def test_none_where_tls_is_spoken(secured: Agent, connect: Connect) -> None:
    with pytest.raises((errors.ApiError, errors.ConnectionFailed)):
        connect(secured.url.replace("https:", "http:"), attempts=1).info()
