"""Opening kafka-python's clients within a time limit, and saying what went wrong in our own words."""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.structs import TopicPartition as KafkaPartition

from stream_monitor.broker.kafka.receive import receive_well
from stream_monitor.broker.kafka.settings import KafkaSettings
from stream_monitor.broker.protocol import TopicPartition
from stream_monitor.errors import BrokerError, BrokerUnavailable, Fenced

Client = TypeVar("Client")

if find_spec("crc32c") is None:
    warnings.warn(
        "the package crc32c is missing: kafka-python then checks records in pure Python, and every record costs many "
        "times as much; install kafka-python[crc32c]",
        RuntimeWarning,
        stacklevel=2,
    )

# At INFO kafka-python tells of every connection and step of a rebalance, at DEBUG it prints its requests, credentials
# among them, and formats text for every record sent. Who wants that sets the level before or after.
if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.WARNING)


FENCING = (errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.FencedInstanceIdError)
_REFUSED = (errors.SaslAuthenticationFailedError, errors.AuthorizationError, errors.UnsupportedSaslMechanismError)
PERMANENT = (
    *_REFUSED,
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidRecordError,
    errors.InvalidTimestampError,
    errors.InvalidTopicError,
    errors.PolicyViolationError,
    errors.UnsupportedVersionError,
)
"""Errors that a retry of the same transaction would meet again."""


def open_client(factory: Callable[..., Client], settings: KafkaSettings, config: dict[str, Any]) -> Client:
    """Construct a kafka-python client; it has connected when it returns, or left nothing behind when it raises.

    Raises BrokerUnavailable when nothing answers within connect_timeout_ms, BrokerError when the broker refuses us.
    """
    receive_well()
    opened: list[KafkaNetClient] = []
    reasons: list[Exception] = []

    def remember(**kwargs: Any) -> KafkaNetClient:
        client = KafkaNetClient(**kwargs)
        client._manager._net.run = without_cycles(client._manager._net.run)
        opened.append(client)
        _listen_for_failures(client, reasons)
        return client

    try:
        client = factory(**config, kafka_client=remember)
    except (errors.KafkaError, OSError, ValueError, RuntimeError) as error:
        # A constructor that raises keeps its sockets and its thread; nobody else can reach them.
        for each in opened:
            each.close()
        if isinstance(error, errors.KafkaTimeoutError):
            error = _telling([*reasons, error])
        raise translated(error, "connecting", settings) from error
    for each in opened:
        del each._manager.get_connection  # what listened for failures
    return client


def without_cycles(run: Callable[..., Any]) -> Callable[..., Any]:
    """`NetworkSelector.run`, after which nothing is left of a wait that timed out.

    kafka-python keeps the error in a future that the error's own traceback leads to: a cycle. Beside it stand the
    responses to the fetches that were waited for, up to 4 MB each: in a backlog hundreds of megabytes between two
    collections.
    """

    def run_without(coroutine: Any, *args: Any) -> Any:
        try:
            return run(coroutine, *args)
        except errors.KafkaTimeoutError as error:
            raise error.with_traceback(None) from None

    return run_without


def _listen_for_failures(client: KafkaNetClient, reasons: list[Exception]) -> None:
    """Collect why connections fail: the manager only tells its log, and says "unable to bootstrap" in the end."""
    manager = client._manager
    connect = manager.get_connection

    def get_connection(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        if not connection.init_future.is_done:
            connection.init_future.add_errback(reasons.append)
        return connection

    manager.get_connection = get_connection


def _telling(reasons: Sequence[Exception]) -> Exception:
    """The reason that tells most: a refusal, else the last that is more than that time ran out."""
    late = (errors.KafkaTimeoutError, errors.RequestTimedOutError)
    refusals = [each for each in reasons if _is_refusal(each)]
    ranked: list[Exception] = [*reasons[-1:], *(each for each in reasons if not isinstance(each, late)), *refusals]
    return ranked[-1]


def _is_refusal(error: Exception) -> bool:
    """Whether trying again would be refused again: a login, an ACL, a certificate; not a connection that breaks."""
    broken = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, _REFUSED) or (isinstance(error, ssl.SSLError) and not isinstance(error, broken))


@contextmanager
def translating(doing: str, settings: KafkaSettings) -> Iterator[None]:
    """Turn what kafka-python raises inside into a BrokerError that names what was being done, and where."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise translated(error, doing, settings) from error


def translated(error: Exception, doing: str, settings: KafkaSettings) -> BrokerError:
    """The error of this project that says what a client's error means for the caller."""
    what = f"{doing}: {describe(error)}"
    if isinstance(error, FENCING):
        return Fenced(
            f"{what}; another process with the same instance name took over, or this one stood still for longer than "
            "a session or transaction may last; exit, and give each worker its own instance name"
        )
    if _is_refusal(error):
        check = (
            "ssl_cafile, ssl_certfile, ssl_keyfile and ssl_password, and that the brokers speak TLS there"
            if isinstance(error, ssl.SSLError)
            else "security_protocol, the credentials and the ACLs (docs/security.md)"
        )
        return BrokerError(f"Kafka at {settings.address} refused {what}; check {check}")
    if getattr(error, "retriable", False) or isinstance(error, OSError):
        # A refusal can look like this too: the client drops an answer when the connection is closed right behind it.
        credentials = ", and the credentials" if settings.security_protocol.startswith("SASL") else ""
        return BrokerUnavailable(
            f"Kafka at {settings.address} did not answer while {what}; check bootstrap_servers, that the brokers run "
            f"and speak {settings.security_protocol}{credentials}"
        )
    return BrokerError(f"Kafka at {settings.address} failed while {what}")


def describe(error: BaseException) -> str:
    """An error's kind and text on one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}"


def theirs(partition: TopicPartition) -> KafkaPartition:
    """A partition as kafka-python wants it: it checks the type."""
    return KafkaPartition(*partition)
