"""Bytes off the wire: in large pieces, and before the end of the connection.

kafka-python reads a socket 4 KB at a time. Every piece is a system call, and gives the interpreter up: while the
worker's own thread computes, the client's has to wait its turn, 5 ms, for each of them, and fetches next to nothing
until there is nothing else to do. With room for 1 MB it takes what the kernel has with one turn.

On their way to the decoder it copies the bytes of a response five times, where once is enough.

And it drops what it has read when it sees in the same round that the other side has closed: a refused login, which a
broker sends and then closes, would look like a broken connection, and be tried again for ever.
"""

from __future__ import annotations

import logging
import ssl
import threading
from typing import Any, Final

from kafka import errors
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 1024 * 1024
"""Of the buffer that all connections of a client, which has a thread for them, read into. One a connection would live
as long as what is left of those that a dead broker refused: hundreds of megabytes, in the soak."""
LARGE_BYTES: Final = 64 * 1024
"""Responses from here on are decoded where they are; of smaller ones some are kept, and expected to be bytes."""
_of_thread = threading.local()
_NOTHING_MORE: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def receive(transport: Any) -> tuple[memoryview, errors.KafkaConnectionError | None]:
    """All bytes that have come, until the thread's next call, or, if none have, what ended the connection, if it has.
    In place of `_sock_recv`."""
    buffer = getattr(_of_thread, "buffer", None)
    if buffer is None:
        buffer = _of_thread.buffer = memoryview(bytearray(PIECE_BYTES))
    pieces: list[bytes] = []  # of what is more than the buffer holds: TLS must be read until it has nothing more
    filled, error = 0, None
    try:
        while count := transport._sock.recv_into(buffer[filled:]):
            filled += count
            if filled == len(buffer):
                pieces.append(bytes(buffer))
                filled = 0
        error = errors.KafkaConnectionError("socket disconnected")
    except _NOTHING_MORE:
        pass
    except Exception as found:
        error = errors.KafkaConnectionError(found)
    data = memoryview(b"".join([*pieces, buffer[:filled]])) if pieces else buffer[:filled]
    if not data and error is not None:
        log.info("%s: %s", transport, error)
        return data, error
    return data, None  # the end will be read again


def read(frame: KafkaBytes, size: int | None = None) -> bytes | memoryview:
    """In place of `KafkaBytes.read`."""
    start = frame._idx
    frame._idx = len(frame) if size is None else min(start + size, len(frame))
    found = memoryview(frame)[start : frame._idx]
    return found.toreadonly() if size is None and len(found) >= LARGE_BYTES else bytes(found)


def write(frame: KafkaBytes, data: bytes | memoryview) -> None:
    """In place of `KafkaBytes.write`."""
    start = frame._idx
    frame._idx += len(data)
    memoryview(frame)[start : frame._idx] = data


def receive_well() -> None:
    """Have every connection of this process read so, from now on."""
    for transport in (KafkaTCPTransport, KafkaSSLTransport):
        transport._sock_recv = receive
    KafkaBytes.read, KafkaBytes.write = read, write
