"""Bytes off the wire: in large pieces, and before the end of the connection.

kafka-python reads a socket 4 KB at a time. Every piece is a system call, and gives the interpreter up: while the
worker's own thread computes, the client's has to wait its turn, 5 ms, for each of them, and fetches next to nothing
until there is nothing else to do. In pieces of 256 KB it takes what the kernel has with one turn.

And it drops what it has read when it sees in the same round that the other side has closed: a refused login, which a
broker sends and then closes, would look like a broken connection, and be tried again for ever.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any, Final

from kafka import errors
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 256 * 1024
_NOTHING_MORE: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def receive(transport: Any) -> tuple[bytes, errors.KafkaConnectionError | None]:
    """All bytes that have come or, if none have, what ended the connection, if it has; in place of `_sock_recv`."""
    pieces: list[bytes] = []
    try:
        while piece := transport._sock.recv(PIECE_BYTES):
            pieces.append(piece)
        error = errors.KafkaConnectionError("socket disconnected")
    except _NOTHING_MORE:
        return b"".join(pieces), None
    except Exception as found:
        error = errors.KafkaConnectionError(found)
    if pieces:  # the end will be read again
        return b"".join(pieces), None
    log.info("%s: %s", transport, error)
    return b"", error


def receive_well() -> None:
    """Have every connection of this process read so, from now on."""
    for transport in (KafkaTCPTransport, KafkaSSLTransport):
        transport._sock_recv = receive
