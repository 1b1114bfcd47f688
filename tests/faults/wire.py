"""A node whose second listener is behind a proxy."""

from __future__ import annotations

from pathlib import Path

from scripts.kafka_node import KafkaNode, Listener, free_port
from tests.faults.proxy import Proxy


class Wire:
    """The node is not started yet; the proxy is open."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        listener = Listener("WIRE", free_port(), advertised_port=port)
        self.node = KafkaNode(directory, free_port(), listeners=[listener])
        self.proxy = Proxy(port, listener.port)
        self.proxy.open()

    def close(self) -> None:
        self.proxy.close()
        self.node.kill()
