"""Ports: kept between starts, never shared; a taken one is reported."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import __main__ as launcher
from deploy.local import ports
from deploy.local.errors import PortTaken


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((ports.HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_is_remembered(tmp_path: Path) -> None:
    first = ports.remembered(tmp_path / "ports.json", "redis")
    assert ports.remembered(tmp_path / "ports.json", "redis") == first
    assert ports.remembered(tmp_path / "ports.json", "postgres") != first


def test_a_remembered_port_that_is_taken_is_replaced(tmp_path: Path, taken: int) -> None:
    (tmp_path / "ports.json").write_text(f'{{"redis": {taken}}}')
    assert ports.remembered(tmp_path / "ports.json", "redis") != taken


def test_a_requested_web_port_is_refused_when_it_is_taken(taken: int) -> None:
    with pytest.raises(
        PortTaken, match=rf"{taken} is taken by .*pid {os.getpid()}.*PORT={taken + 1}"
    ):
        ports.for_web(taken)


@pytest.mark.parametrize("port", ["0", "70000", "web"])
def test_an_invalid_port_is_refused_at_once(port: str, capsys) -> None:
    with pytest.raises(SystemExit):
        launcher.main(["run", "--port", port])
    assert f"{port!r} is not a whole number from 1 to 65535" in capsys.readouterr().err


def test_the_next_free_port_is_used_when_the_default_is_taken(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "DEFAULT", taken)
    assert ports.for_web(None) > taken
