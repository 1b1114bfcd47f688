"""A TCP proxy that speaks enough of Kafka's protocol to be a bad network on purpose.

It stands before one listener of a broker, which advertises the proxy's port. Everything is frame by frame, so that a
request and its answer are known by name: `lose_end_txn` and `delay_end_txn` hit the replies to EndTxn alone, that is,
the moment in which a worker cannot know whether it has committed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

END_TXN: Final = 26
_LENGTH: Final = struct.Struct(">i")
_REQUEST: Final = struct.Struct(">hhi")
_CORRELATION: Final = struct.Struct(">i")


@dataclass(slots=True)
class Weather:
    """What the network is like; set from any thread, looked at for each frame.

    `latency_s`: on the way there and on the way back. `black_hole`: nothing arrives any more, nothing is closed, new
    connections are taken and lead nowhere; what was sent arrives when it is over. `lose_end_txn`: so many replies to
    EndTxn are swallowed. `cut_end_txn`: so many are, and the connection breaks. `delay_end_txn_s`: those replies come
    that late. `hold_end_txn_s`: the requests do. All four for the transactional ids that contain `end_txn_of`.
    """

    latency_s: float = 0.0
    black_hole: bool = False
    lose_end_txn: int = 0
    cut_end_txn: int = 0
    delay_end_txn_s: float = 0.0
    hold_end_txn_s: float = 0.0
    end_txn_of: bytes = b""


@dataclass(slots=True, eq=False)
class _Link:
    """One connection: both sockets, and the EndTxn requests whose answers have not come."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    waiting: set[int] = field(default_factory=set)


class Proxy:
    """Listens on a port of its own in a thread of its own; `open` it before use."""

    def __init__(self, port: int, upstream_port: int) -> None:
        self.port = port
        self.weather = Weather()
        self.seen: Counter[str] = Counter()
        self._upstream_port = upstream_port
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        self._thread.start()

        async def serve() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)

        self._server = asyncio.run_coroutine_threadsafe(serve(), self._loop).result(10)

    def close(self) -> None:
        async def finish() -> None:
            if self._server is not None:
                self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def reset(self) -> None:
        """Break every connection with a reset, as a firewall that lost its table."""

        def break_all() -> None:
            for link in self._links:
                _abort(link)

        self._loop.call_soon_threadsafe(break_all)

    # ---- in the loop ----

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._daylight()
            there, back = await asyncio.open_connection("127.0.0.1", self._upstream_port, limit=2**20)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        link = _Link(writer, back)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(reader, back, lambda frame: self._on_request(link, frame))),
            asyncio.ensure_future(self._pump(there, writer, lambda frame: self._on_reply(link, frame))),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass
        finally:
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            back.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verdict: Callable[[bytes], float | None]
    ) -> None:
        """Frames from one side to the other, in order, each after its delay; `verdict` None swallows it."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        delivery = asyncio.ensure_future(self._deliver(queue, writer))
        try:
            while True:
                head = await reader.readexactly(_LENGTH.size)
                frame = await reader.readexactly(_LENGTH.unpack(head)[0])
                delay_s = verdict(frame)
                if delay_s is not None:
                    await queue.put((self._loop.time() + delay_s, head + frame))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await queue.get()
            await asyncio.sleep(max(0.0, due_s - self._loop.time()))
            await self._daylight()
            writer.write(data)
            await writer.drain()

    async def _daylight(self) -> None:
        while self.weather.black_hole:
            await asyncio.sleep(0.05)

    def _on_request(self, link: _Link, frame: bytes) -> float | None:
        api, _, correlation = _REQUEST.unpack_from(frame)
        if api != END_TXN or self.weather.end_txn_of not in frame:
            return self.weather.latency_s
        self.seen["end_txn"] += 1
        link.waiting.add(correlation)
        return self.weather.latency_s + self.weather.hold_end_txn_s

    def _on_reply(self, link: _Link, frame: bytes) -> float | None:
        (correlation,) = _CORRELATION.unpack_from(frame)
        if correlation not in link.waiting:
            return self.weather.latency_s
        link.waiting.discard(correlation)
        if self.weather.lose_end_txn > 0:
            self.weather.lose_end_txn -= 1
            self.seen["end_txn_reply_lost"] += 1
            return None
        if self.weather.cut_end_txn > 0:
            self.weather.cut_end_txn -= 1
            self.seen["end_txn_cut"] += 1
            _abort(link)
            return None
        if self.weather.delay_end_txn_s:
            self.seen["end_txn_reply_late"] += 1
        return self.weather.latency_s + self.weather.delay_end_txn_s


def _abort(link: _Link) -> None:
    for writer in (link.client, link.broker):
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
