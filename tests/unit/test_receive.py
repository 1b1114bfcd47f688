"""Reading a socket in large pieces, beside kafka-python's own way."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.net.transport import KafkaTCPTransport

from stream_monitor.broker.kafka.receive import PIECE_BYTES, receive, receive_well

THEIRS = KafkaTCPTransport._sock_recv
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, other = socket.socketpair()
    ours.setblocking(False)
    yield ours, other
    ours.close()
    other.close()


class Counting:
    """A socket that counts its calls."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.calls = 0

    def recv(self, size: int) -> bytes:
        self.calls += 1
        return self._inner.recv(size)


@pytest.mark.parametrize("way", [receive, THEIRS])
def test_what_has_come_is_taken_whole_and_in_order(way: Callable[[Any], Any], pair: Pair) -> None:
    ours, other = pair
    sent = bytes(range(256)) * 200
    other.sendall(sent)
    assert way(SimpleNamespace(_sock=ours)) == (sent, None)
    assert way(SimpleNamespace(_sock=ours)) == (b"", None)


def test_what_came_before_the_end_is_told_first(pair: Pair) -> None:
    ours, other = pair
    other.sendall(b"last words")
    other.shutdown(socket.SHUT_WR)
    assert receive(SimpleNamespace(_sock=ours)) == (b"last words", None)
    data, error = receive(SimpleNamespace(_sock=ours))
    assert data == b""
    assert "socket disconnected" in str(error)


@pytest.mark.parametrize("way", [receive, THEIRS])
def test_a_broken_socket_is_told(way: Callable[[Any], Any], pair: Pair) -> None:
    pair[0].close()
    data, error = way(SimpleNamespace(_sock=pair[0]))
    assert data == b""
    assert "Bad file descriptor" in str(error)


def test_one_turn_takes_what_takes_the_client_many(pair: Pair) -> None:
    ours, other = pair
    other.sendall(bytes(100_000))
    few = Counting(ours)
    assert len(receive(SimpleNamespace(_sock=few))[0]) == 100_000 < PIECE_BYTES
    other.sendall(bytes(100_000))
    many = Counting(ours)
    assert len(THEIRS(SimpleNamespace(_sock=many))[0]) == 100_000
    assert few.calls * 10 < many.calls


def test_clients_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KafkaTCPTransport, "_sock_recv", THEIRS)
    receive_well()
    assert KafkaTCPTransport._sock_recv is receive
