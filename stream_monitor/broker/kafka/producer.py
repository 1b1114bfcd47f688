"""Writing to Kafka: one transaction at a time, whose outcome is always told."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from kafka import KafkaAdminClient, KafkaProducer, errors
from kafka.structs import OffsetAndMetadata

from stream_monitor.broker.kafka.clients import (
    FENCING,
    PERMANENT,
    describe,
    open_client,
    theirs,
    translated,
    translating,
)
from stream_monitor.broker.kafka.consumer import KafkaMember
from stream_monitor.broker.kafka.settings import KafkaSettings
from stream_monitor.broker.outgoing import check_commit, partition_of
from stream_monitor.broker.protocol import NO_NOTES, Member, Message, Probe, TopicPartition
from stream_monitor.errors import BrokerError, OutcomeUnknown, TopicMismatch, TransactionAborted

log = logging.getLogger(__name__)

OnStuck = Callable[[str], None]


def exit_process(reason: str) -> NoReturn:
    """End the process at once with OutcomeUnknown's exit code; nothing more can be learnt from inside."""
    # In a thread of its own: whoever reads our log may be what everything hangs on.
    saying = threading.Thread(target=log.critical, args=("%s", reason), daemon=True)
    saying.start()
    saying.join(timeout=2)
    os._exit(OutcomeUnknown.exit_code)


class _ProbeRaised(BaseException):
    """Carries a probe's exception past the handlers of the block, which are for the client's errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class TransactionalProducer:
    """A producer of atomic commits; see `protocol.Producer`.

    kafka-python's producer is thrown away after every failed transaction, and the next one opened: it keeps the
    offsets of an aborted transaction and would send them with the next, and after some errors it cannot abort at all.
    Opening has the broker abort whatever the old one left.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str, probe: Probe | None, on_stuck: OnStuck) -> None:
        self._settings = settings
        self._id = transactional_id
        self._probe = probe
        self._on_stuck = on_stuck
        self._producer: Any = self._open()
        self._ended: BrokerError | None = None

    def commit(
        self,
        messages: Sequence[Message],
        offsets: Mapping[TopicPartition, int],
        member: Member | None,
        notes: Mapping[TopicPartition, str] = NO_NOTES,
    ) -> None:
        check_commit(messages, offsets, member, self._settings.max_request_size)
        if member is not None and not isinstance(member, KafkaMember):
            raise ValueError(f"{member} is not a member of a Kafka group")
        if self._ended is not None:
            raise self._ended
        if self._producer is None:
            self._producer = self._open()
        placed = self._placed(messages)
        noted = {
            theirs(partition): OffsetAndMetadata(offset, notes.get(partition, ""), -1)
            for partition, offset in offsets.items()
        }
        with self._watched():
            try:
                self._transact(placed, noted, member)
            except _ProbeRaised as raised:
                raise raised.error from None

    def close(self) -> None:
        if self._producer is not None:
            self._discard()

    # ---- the block ----

    def _transact(
        self,
        placed: Sequence[tuple[Message, int | None]],
        offsets: Mapping[Any, OffsetAndMetadata],
        member: KafkaMember | None,
    ) -> None:
        try:
            self._write(placed)
            self._settle(offsets, member)
            self._tell("commit")
        except Exception as error:
            raise self._rolled_back(error) from error
        try:
            self._await(self._producer._transaction_manager.begin_commit(), self._settings.transaction_timeout_ms)
        except Exception as error:
            self._ended = self._unknown(error)
            self._discard()
            raise self._ended from error
        self._tell("done")

    def _write(self, placed: Sequence[tuple[Message, int | None]]) -> None:
        """Send the messages, and see every one of them acknowledged."""
        self._tell("begin")
        self._producer.begin_transaction()
        self._tell("send")
        sent = [
            self._producer.send(
                message.topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                partition=partition,
                timestamp_ms=message.timestamp_ms,
            )
            for message, partition in placed
        ]
        self._tell("flush")
        self._producer.flush(timeout=(self._settings.delivery_timeout_ms + self._settings.request_timeout_ms) / 1000)
        self._tell("check")
        # A batch that expired leaves the transaction's state alone: the commit would succeed without it.
        for future in sent:
            if not future.is_done:
                raise errors.KafkaTimeoutError("a record was neither acknowledged nor refused")
            if future.failed():
                raise future.exception

    def _settle(self, offsets: Mapping[Any, OffsetAndMetadata], member: KafkaMember | None) -> None:
        """Make the offsets part of the transaction, which is refused if the membership is stale."""
        self._tell("offsets")
        if member is None:
            return
        transactions = self._producer._transaction_manager
        self._await(
            transactions.send_offsets_to_transaction(offsets, member.metadata), self._settings.request_timeout_ms
        )

    def _await(self, result: Any, timeout_ms: int) -> None:
        """Wait for a step of the transaction; kafka-python's own methods do the same without a time limit."""
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=timeout_ms):
            raise errors.KafkaTimeoutError(f"no answer within {timeout_ms} ms")

    # ---- when it fails ----

    def _rolled_back(self, error: Exception) -> BrokerError:
        """Abort what was begun, and say what the error means; before the commit call the outcome is certain."""
        fenced = self._fence(error)
        if fenced is None:
            fenced = self._abort()
        self._discard()
        doing = f"writing a transaction of {self._id}"
        if fenced is not None:
            self._ended = translated(fenced, doing, self._settings)
            return self._ended
        if isinstance(error, PERMANENT):
            return translated(error, doing, self._settings)
        return TransactionAborted(
            f"the transaction of {self._id} was rolled back: {describe(error)}; restore and retry"
        )

    def _abort(self) -> Exception | None:
        """Roll back now rather than at the next opening; returns the fencing error if that is how it failed."""
        try:
            self._await(self._producer._transaction_manager.begin_abort(), self._settings.request_timeout_ms)
        except Exception as error:
            log.info("rolling back the transaction of %s: %s", self._id, describe(error))
            return self._fence(error)
        return None

    def _unknown(self, error: Exception) -> BrokerError:
        fenced = self._fence(error)
        if fenced is not None:
            return translated(fenced, f"committing a transaction of {self._id}", self._settings)
        return OutcomeUnknown(
            f"it is not known whether the transaction of {self._id} was committed: {describe(error)}; "
            "exit, restart, and read the truth back from the topics"
        )

    def _fence(self, error: Exception) -> Exception | None:
        """The error that says a namesake took over, be it this one or the one the producer keeps as its cause."""
        cause: Exception | None = self._producer._transaction_manager.last_error
        return next((each for each in (error, cause) if isinstance(each, FENCING)), None)

    # ---- the client below ----

    def _open(self) -> KafkaProducer:
        """A client whose epoch fences all older ones of this name, and has ended what they left open."""
        producer = open_client(KafkaProducer, self._settings, self._settings.producing(self._id))
        try:
            producer.init_transactions()
        except (errors.KafkaError, OSError) as error:
            _shut(producer)
            raise translated(error, f"opening the producer {self._id}", self._settings) from error
        return producer

    def _discard(self) -> None:
        producer, self._producer = self._producer, None
        _shut(producer)

    def _placed(self, messages: Sequence[Message]) -> list[tuple[Message, int | None]]:
        """Messages with their partitions; raises TopicMismatch or BrokerUnavailable before anything is begun."""
        topics = {message.topic for message in messages}
        try:
            partitions = {topic: self._producer.partitions_for(topic) for topic in topics}
        except errors.KafkaTimeoutError as error:
            raise self._unplaceable(topics, error) from error
        except errors.KafkaError as error:
            raise translated(error, f"asking for the topics of {self._id}", self._settings) from error
        return [(message, _place(message, partitions[message.topic])) for message in messages]

    def _unplaceable(self, topics: Collection[str], error: Exception) -> BrokerError:
        """What it means that the partitions of topics cannot be learned: the client says the same of a topic that does
        not exist and of brokers that do not answer. So they are asked, which raises BrokerUnavailable."""
        doing = f"asking for the topics of {self._id}"
        admin = open_client(KafkaAdminClient, self._settings, self._settings.common())
        try:
            with translating(doing, self._settings):
                described = admin.describe_topics(sorted(topics))
        finally:
            admin.close()
        missing = [
            each["name"] for each in described if each["error_code"] == errors.UnknownTopicOrPartitionError.errno
        ]
        refused = [
            each["name"] for each in described if each["error_code"] == errors.TopicAuthorizationFailedError.errno
        ]
        if refused:
            return translated(errors.TopicAuthorizationFailedError(", ".join(refused)), doing, self._settings)
        if not missing:
            return translated(error, doing, self._settings)
        return TopicMismatch(
            f"the brokers at {self._settings.address} know no topic {', '.join(missing)}; create what is missing with "
            "`stream-monitor topics create` (--with-predictions N: the input topics too)"
        )

    def _tell(self, step: str) -> None:
        if self._probe is not None:
            try:
                self._probe(step)
            except Exception as error:
                raise _ProbeRaised(error) from error

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Take the process down if the block outlives all its time limits, whatever it hangs in."""
        limit_ms = self._settings.watchdog_ms
        reason = f"a transaction of {self._id} hangs for {limit_ms} ms; its outcome is unknown"
        watchdog = threading.Timer(limit_ms / 1000, self._on_stuck, [reason])
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()


def _place(message: Message, partitions: Collection[int]) -> int | None:
    """The partition of a message, None to have the client draw one; raises TopicMismatch if it does not exist."""
    if message.partition is not None:
        if message.partition not in partitions:
            raise TopicMismatch(
                f"topic {message.topic} has {len(partitions)} partitions, there is no partition {message.partition}"
            )
        return message.partition
    # kafka-python's own partitioner computes the same, in Python.
    return None if message.key is None else partition_of(message.key, len(partitions))


def _shut(producer: KafkaProducer) -> None:
    """Close a client without waiting for what can no longer succeed."""
    try:
        producer.close(timeout=1)
    except errors.KafkaError as error:
        log.info("closing a producer: %s", describe(error))
        producer._sender.force_close()
