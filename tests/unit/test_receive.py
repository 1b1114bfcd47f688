"""Reading a socket in large pieces, beside kafka-python's own way."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

from stream_monitor.broker.kafka import receive as module
from stream_monitor.broker.kafka.receive import LARGE_BYTES, PIECE_BYTES, read, receive, receive_well, write

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

    def recv_into(self, buffer: memoryview) -> int:
        self.calls += 1
        return self._inner.recv_into(buffer)


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
    data, error = receive(SimpleNamespace(_sock=ours))
    assert (bytes(data), error) == (b"last words", None)
    data, error = receive(SimpleNamespace(_sock=ours))
    assert not data
    assert "socket disconnected" in str(error)


@pytest.mark.parametrize("way", [receive, THEIRS])
def test_a_broken_socket_is_told(way: Callable[[Any], Any], pair: Pair) -> None:
    pair[0].close()
    data, error = way(SimpleNamespace(_sock=pair[0]))
    assert data == b""
    assert "Bad file descriptor" in str(error)


@pytest.mark.parametrize("size", [999, 1_000, 1_001, 2_500])
def test_more_than_the_buffer_holds_is_one_piece_as_well(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    ours, other = pair
    sent = bytes(range(250)) * (size // 250 + 1)
    other.sendall(sent[:size])
    monkeypatch.setattr(module._of_thread, "buffer", memoryview(bytearray(1_000)), raising=False)
    transport = SimpleNamespace(_sock=ours)
    assert (bytes(receive(transport)[0]), bytes(receive(transport)[0])) == (sent[:size], b"")


@pytest.mark.parametrize("size", [4, LARGE_BYTES - 1, LARGE_BYTES])
def test_a_frame_is_read_as_the_client_reads_it(size: int) -> None:
    sent = bytes(range(256)) * (size // 256 + 1)
    ours, theirs = KafkaBytes(size), KafkaBytes(size)
    for start in range(0, size, 1000):
        write(ours, memoryview(sent)[start : min(start + 1000, size)])
        KafkaBytes.write(theirs, sent[start : min(start + 1000, size)])
    assert ours == theirs
    for frame in (ours, theirs):
        frame.seek(0)
    assert read(ours, 3) == KafkaBytes.read(theirs, 3)
    assert read(ours) == KafkaBytes.read(theirs)
    assert (read(ours), ours.tell()) == (b"", size)


def test_a_connection_that_is_gone_holds_no_buffer(pair: Pair) -> None:
    ours, other = pair
    held = []
    for _ in range(3):
        other.sendall(b"a word")
        transport = SimpleNamespace(_sock=ours)
        held.append(receive(transport)[0].obj)
        assert vars(transport) == {"_sock": ours}
    assert held[0] is held[1] is held[2]


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
    for name, own in (("read", KafkaBytes.read), ("write", KafkaBytes.write)):
        monkeypatch.setattr(KafkaBytes, name, own)
    receive_well()
    assert (KafkaBytes.read, KafkaBytes.write) == (read, write)
    assert KafkaTCPTransport._sock_recv is receive
