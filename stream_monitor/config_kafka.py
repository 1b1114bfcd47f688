"""The section `kafka`: where the brokers are, how to prove who we are, and the client's timings."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from stream_monitor.config_base import Complaint, ExistingFile, Names, Positive, Section, refuse, refuse_all, shown
from stream_monitor.errors import ConfigError, Fault
from stream_monitor.reference import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from stream_monitor.broker.kafka.settings import KafkaSettings

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
LARGEST_RECORD_BYTES = MAX_DOCUMENT_BYTES + 65_536
"""A whole reference document, with room for its key and headers: what the references topic takes and we may write.

Everything else is split far below the broker's usual 1 MiB; 400 columns in 24 strata, 70 bins of 13 bytes, are 9 MB."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


class KafkaSection(Section):
    """Where the brokers are and how to reach them."""

    bootstrap_servers: Names = Field(
        default=(), description="The only value that has no default: a list, or text with commas, of host:port."
    )
    client_id: str = Field(
        default="stream-monitor", min_length=1, description="Name in the broker's logs, metrics and quotas."
    )

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Mechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = Field(default=None, description="Better: sasl_password_file, or the environment.")
    sasl_password_file: ExistingFile | None = Field(
        default=None, description="File that holds the password and nothing else."
    )
    sasl_oauth_token_file: ExistingFile | None = Field(
        default=None, description="For OAUTHBEARER: file that holds the token, read anew for every connection."
    )
    sasl_oauth_token_provider: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="For OAUTHBEARER: package.module:function, called without arguments for every connection; its "
        "text is the token.",
    )
    ssl_cafile: ExistingFile | None = Field(
        default=None, description="PEM of the authorities to trust; null: the system's."
    )
    ssl_certfile: ExistingFile | None = Field(default=None, description="PEM of the client's certificate.")
    ssl_keyfile: ExistingFile | None = Field(default=None, description="PEM of the client's key.")
    ssl_password: SecretStr | None = Field(default=None, description="Of the key file.")
    ssl_password_file: ExistingFile | None = Field(default=None, description="File that holds the key's password.")
    ssl_check_hostname: bool = True

    static_membership: bool = Field(
        default=True, description="A restarted worker keeps its partitions; needs instance names that stay."
    )
    session_timeout_ms: int = Field(default=15_000, ge=1_000, description="A dead worker is noticed after this.")
    heartbeat_interval_ms: int = Field(default=3_000, ge=100, description="At most a third of session_timeout_ms.")
    max_poll_interval_ms: int = Field(
        default=300_000, ge=10_000, description="A stuck worker loses its partitions after this."
    )
    max_poll_records: Positive = 10_000
    fetch_min_bytes: Positive = 65_536
    fetch_max_wait_ms: int = Field(default=100, ge=1, le=10_000)
    max_partition_fetch_bytes: int = Field(default=4_194_304, ge=1_048_576)
    metadata_max_age_ms: int = Field(default=60_000, ge=1_000, description="New partitions are seen within this.")

    linger_ms: int = Field(default=5, ge=0, le=10_000)
    batch_size: int = Field(default=524_288, ge=16_384)
    compression_type: Literal["lz4", "zstd", "gzip", "none"] = "lz4"
    delivery_timeout_ms: int = Field(default=12_000, ge=1_000, description="At least request_timeout_ms + linger_ms.")
    transaction_timeout_ms: int = Field(default=20_000, ge=1_000, description="More than delivery_timeout_ms.")
    commit_timeout_ms: int | None = Field(
        default=None,
        ge=1_000,
        description="A commit that hangs this long ends the process, to be restarted; null: what its steps may take "
        "at most, and ten seconds.",
    )

    request_timeout_ms: int = Field(default=8_000, ge=1_000)
    retry_backoff_ms: int = Field(default=20, ge=1, le=60_000)
    reconnect_backoff_max_ms: int = Field(default=2_000, ge=50, le=60_000)
    connect_timeout_ms: int = Field(default=10_000, ge=1_000, description="For the opening of a client.")

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        if not servers:
            raise refuse("no address at all", "write host:port, as kafka-1:9092")
        for server in servers:
            match = _ADDRESS.fullmatch(server)
            if not match or not 0 < int(match[2]) < 65_536:
                raise refuse(f"{shown(server)} is no address", "write host:port, as kafka-1:9092, without a scheme")
        return servers

    @model_validator(mode="after")
    def _consistent(self) -> KafkaSection:
        refuse_all([*self._credential_complaints(), *self._timing_complaints()])
        return self

    def _credential_complaints(self) -> Iterator[Complaint]:
        for name in ("sasl_password", "ssl_password"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                yield Complaint(name, f"{name}_file is given as well", "keep one of them")
        yield from self._sasl_complaints()
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            alone, other = ("ssl_certfile", "ssl_keyfile") if self.ssl_certfile else ("ssl_keyfile", "ssl_certfile")
            yield Complaint(alone, f"is given without {other}", "give both, or neither")

    def _sasl_complaints(self) -> Iterator[Complaint]:
        password = {
            "sasl_username": self.sasl_username,
            "sasl_password or sasl_password_file": self.sasl_password or self.sasl_password_file,
        }
        token = {
            "sasl_oauth_token_file or sasl_oauth_token_provider": self.sasl_oauth_token_file
            or self.sasl_oauth_token_provider
        }
        if self.sasl_oauth_token_file and self.sasl_oauth_token_provider:
            yield Complaint("sasl_oauth_token_file", "sasl_oauth_token_provider is given as well", "keep one of them")
        oauth = self.sasl_mechanism == "OAUTHBEARER"
        needed, other = (token, password) if oauth else (password, token)
        missing = [name for name, value in {"sasl_mechanism": self.sasl_mechanism, **needed}.items() if not value]
        idle = [name for name, value in other.items() if value]
        protocol = self.security_protocol
        if not protocol.startswith("SASL"):
            if self.sasl_mechanism or any(needed.values()) or idle:
                problem = f"{protocol} would not use the SASL credentials that are given"
                yield Complaint("security_protocol", problem, "set SASL_SSL (or SASL_PLAINTEXT)")
            return
        if missing:
            yield Complaint("security_protocol", f"{protocol} needs credentials", f"add {', '.join(missing)}")
        if idle and self.sasl_mechanism:
            yield Complaint("sasl_mechanism", f"{self.sasl_mechanism} does not use {', '.join(idle)}", "take it out")

    def _timing_complaints(self) -> Iterator[Complaint]:
        bounds = [
            ("session_timeout_ms", "3 · heartbeat_interval_ms", 3 * self.heartbeat_interval_ms),
            ("delivery_timeout_ms", "request_timeout_ms + linger_ms", self.request_timeout_ms + self.linger_ms),
            ("transaction_timeout_ms", "delivery_timeout_ms + 1", self.delivery_timeout_ms + 1),
            (
                "commit_timeout_ms",
                "delivery_timeout_ms + 3 · request_timeout_ms + transaction_timeout_ms",
                self.delivery_timeout_ms + 3 * self.request_timeout_ms + self.transaction_timeout_ms,
            ),
        ]
        for name, least, least_ms in bounds:
            given: int | None = getattr(self, name)
            if given is not None and given < least_ms:
                problem = f"{given} is less than {least} = {least_ms}"
                yield Complaint(name, problem, f"set it to {least_ms} or more, or lower the others")

    def to_settings(self) -> KafkaSettings:
        """What the Kafka broker takes. Reads the password files; raises ConfigError if one cannot be read."""
        from stream_monitor.broker.kafka.settings import KafkaSettings  # lazily: a replay needs no Kafka client
        from stream_monitor.broker.kafka.tokens import token_file

        given = {name: getattr(self, name) for name in type(self).model_fields}
        for name in ("sasl_password", "ssl_password"):
            secret, file = given[name], given.pop(f"{name}_file")
            given[name] = _password(file, f"kafka.{name}_file") if file else secret and secret.get_secret_value()
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            given[name] = given[name] and str(given[name])
        file, provider = given.pop("sasl_oauth_token_file"), given.pop("sasl_oauth_token_provider")
        if file or provider:
            given["sasl_oauth_token"] = token_file(file) if file else _provider(provider)
        return KafkaSettings(**given, max_request_size=LARGEST_RECORD_BYTES)


def _provider(named: str) -> Callable[[], str]:
    """The function that a dotted name means; it runs with our rights, as the configuration itself is trusted to."""
    module, _, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        fault = Fault("", "kafka.sasl_oauth_token_provider", f"{named!r}: {error}", "name an importable function")
        raise ConfigError([fault]) from error
    if not callable(found):
        fault = Fault("", "kafka.sasl_oauth_token_provider", f"{named!r} is no function", "name one that gives a token")
        raise ConfigError([fault])
    provider: Callable[[], str] = found
    return provider


def _password(file: Path, key: str) -> str:
    try:
        text = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(str(file), key, "cannot be read", "make it a readable text file")]) from error
    if not text:
        raise ConfigError([Fault(str(file), key, "is empty", "write the password into it")])
    return text
