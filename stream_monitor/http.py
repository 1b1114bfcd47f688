"""The window to the outside: `/metrics` for Prometheus, `/healthz` and `/readyz` as Kubernetes means them.

A thread of its own serves them from what the worker last told; it never touches the worker and never blocks it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

log = structlog.get_logger()

ALIVE_S: Final = 120.0
"""Age of the last sign of life at which a worker counts as stuck: longer than any commit may take."""
REQUEST_S: Final = 10.0
Answer = tuple[int, str, bytes]


class Pulse:
    """What the loop says of itself: that it turns, and whether it works. Written by the loop, read by requests."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._beaten_s = clock_s()
        self._ready = (False, "starting")

    def beat(self) -> None:
        self._beaten_s = self._clock_s()

    def tell(self, ready: bool, why: str) -> None:
        self._ready = (ready, why)

    def alive(self) -> tuple[bool, str]:
        """Whether the loop has turned lately, and when it last did."""
        age_s = self._clock_s() - self._beaten_s
        return age_s < ALIVE_S, f"last turn {age_s:.0f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether it takes part in the work, and why not."""
        alive, why = self.alive()
        return self._ready if alive else (False, why)


class Server:
    """Serves until closed. Raises OSError when the port cannot be had."""

    def __init__(self, host: str, port: int, pulse: Pulse, registry: CollectorRegistry) -> None:
        answers: dict[str, Callable[[], Answer]] = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/healthz": lambda: _verdict(*pulse.alive()),
            "/readyz": lambda: _verdict(*pulse.ready()),
            "/": lambda: (200, "text/plain; charset=utf-8", b"stream-monitor: /metrics /healthz /readyz\n"),
        }
        self._server = ThreadingHTTPServer((host, port), _handler(answers))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve(host: str, port: int | None, pulse: Pulse, registry: CollectorRegistry) -> Server | None:
    """The server, or None where none is wanted or its port is taken: watching goes on without it, and says so."""
    if port is None:
        return None
    try:
        server = Server(host, port, pulse, registry)
    except OSError as error:
        log.error("no metrics: the port cannot be had (http.port)", host=host, port=port, why=str(error))
        return None
    log.info("serving /metrics, /healthz and /readyz", host=host, port=server.port)
    return server


def _verdict(good: bool, why: str) -> Answer:
    return (200 if good else 503), "text/plain; charset=utf-8", f"{'ok' if good else 'not ok'}: {why}\n".encode()


def _handler(answers: dict[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S
        server_version = "stream-monitor"
        sys_version = ""

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            status, kind, body = answer() if answer else (404, "text/plain; charset=utf-8", b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not worth a line each."""

    return Handler
