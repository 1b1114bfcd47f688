"""Where the brokers are, how to prove who we are, and the client's timings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from stream_monitor.broker.kafka.tokens import TokenProvider, Tokens


class _Secret(str):
    """Text that prints as asterisks: kafka-python writes its whole configuration into its debug log."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """All that the Kafka broker is told; names and units are kafka-python's.

    `connect_timeout_ms` bounds the opening of any client. The steps of a commit have time limits of their own; should
    one of them hang nevertheless, the process is taken down after `commit_timeout_ms` (by default, the sum of these
    limits and ten seconds).
    """

    bootstrap_servers: tuple[str, ...]
    client_id: str = "stream-monitor"

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_oauth_token: Tokens | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: str | None = field(default=None, repr=False)
    ssl_check_hostname: bool = True

    static_membership: bool = True
    session_timeout_ms: int = 15_000
    heartbeat_interval_ms: int = 3_000
    max_poll_interval_ms: int = 300_000
    max_poll_records: int = 10_000
    fetch_min_bytes: int = 65_536
    fetch_max_wait_ms: int = 100
    max_partition_fetch_bytes: int = 4_194_304
    metadata_max_age_ms: int = 60_000

    linger_ms: int = 5
    batch_size: int = 524_288
    compression_type: Literal["lz4", "zstd", "gzip", "none"] = "lz4"
    max_request_size: int = 1_048_576
    delivery_timeout_ms: int = 12_000
    transaction_timeout_ms: int = 20_000
    commit_timeout_ms: int | None = None

    request_timeout_ms: int = 8_000
    retry_backoff_ms: int = 20
    reconnect_backoff_max_ms: int = 2_000
    connect_timeout_ms: int = 10_000

    @property
    def address(self) -> str:
        """The brokers as a person would write them, for error messages."""
        return ",".join(self.bootstrap_servers)

    @property
    def watchdog_ms(self) -> int:
        """How long a commit may take before the process is taken down."""
        if self.commit_timeout_ms is not None:
            return self.commit_timeout_ms
        return self.delivery_timeout_ms + 3 * self.request_timeout_ms + self.transaction_timeout_ms + 10_000

    def common(self) -> dict[str, Any]:
        """What every client is given."""
        return {
            "bootstrap_servers": list(self.bootstrap_servers),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": _Secret(self.sasl_password) if self.sasl_password is not None else None,
            "sasl_oauth_token_provider": TokenProvider(self.sasl_oauth_token) if self.sasl_oauth_token else None,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            "ssl_password": _Secret(self.ssl_password) if self.ssl_password is not None else None,
            "ssl_check_hostname": self.ssl_check_hostname,
            "request_timeout_ms": self.request_timeout_ms,
            "retry_backoff_ms": self.retry_backoff_ms,
            "reconnect_backoff_max_ms": self.reconnect_backoff_max_ms,
            "metadata_max_age_ms": self.metadata_max_age_ms,
            "bootstrap_timeout_ms": self.connect_timeout_ms,
        }

    def consuming(self) -> dict[str, Any]:
        """What consumers and readers are given: no silent commits, no silent resets, no deserializers."""
        return {
            **self.common(),
            "isolation_level": "read_committed",
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "allow_auto_create_topics": False,
            "max_poll_records": self.max_poll_records,
            "fetch_min_bytes": self.fetch_min_bytes,
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
            "max_partition_fetch_bytes": self.max_partition_fetch_bytes,
            "metrics_enabled": False,
        }

    def grouped(self, group: str, instance: str) -> dict[str, Any]:
        """What a group member is given besides."""
        return {
            **self.consuming(),
            "group_id": group,
            "group_instance_id": instance if self.static_membership else None,
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": self.heartbeat_interval_ms,
            "max_poll_interval_ms": self.max_poll_interval_ms,
        }

    def producing(self, transactional_id: str) -> dict[str, Any]:
        """What a transactional producer is given."""
        return {
            **self.common(),
            "transactional_id": transactional_id,
            "acks": "all",
            "linger_ms": self.linger_ms,
            "batch_size": self.batch_size,
            "compression_type": None if self.compression_type == "none" else self.compression_type,
            "max_request_size": self.max_request_size,
            "delivery_timeout_ms": self.delivery_timeout_ms,
            "transaction_timeout_ms": self.transaction_timeout_ms,
            "max_block_ms": self.connect_timeout_ms,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
