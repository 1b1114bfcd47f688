"""The exceptions of this project.

    StreamMonitorError
    ├── ConfigError            settings that cannot work; lists every fault at once
    ├── DataError              a file or table that cannot be read as asked
    ├── ReferenceInvalid       a reference document that cannot be used
    ├── WireError              bytes of ours (batch, state) that are damaged or hostile
    ├── VersionUnknown         sound bytes of a release we cannot read; exit, another release has to read them
    └── BrokerError            anything the broker said no to
        ├── BrokerUnavailable  nothing answers; worth a retry
        ├── TopicMismatch      a topic is missing or has the wrong shape
        ├── TransactionAborted the transaction was rolled back; memory must be restored
        ├── Fenced             another process of the same name took over; exit
        └── OutcomeUnknown     the commit may or may not have happened; exit and read the truth back

Bad *data* is never an exception: see `events.Reject`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class StreamMonitorError(Exception):
    """Base of all errors raised on purpose; its text names the thing, the value and the fix."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the configuration: where it stands, what is wrong, what to do."""

    where: str
    key: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.key}: {self.problem}" if self.key else f"{self.where}: {self.problem}"
        return f"{text} ({self.remedy})" if self.remedy else text


class ConfigError(StreamMonitorError):
    """The configuration cannot work; `faults` lists all that is wrong, not just the first."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in faults))


class DataError(StreamMonitorError):
    """A file or table cannot be read as asked."""

    exit_code = 3


class ReferenceInvalid(StreamMonitorError):
    """A reference document is unreadable, inconsistent or of another schema version."""

    exit_code = 3


class WireError(StreamMonitorError):
    """Bytes of a batch, a state or a chunk are damaged, too large or not what they say."""


class VersionUnknown(StreamMonitorError):
    """A sound record of ours is of a wire version that this release does not read (see docs/upgrading.md).

    Skipping it would lose it, so the process ends, with nothing of it committed, and another release reads it.
    """

    exit_code = 8

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; nothing is lost: run a release that reads it, and see docs/upgrading.md")


class BrokerError(StreamMonitorError):
    """The broker refused, or could not do, what was asked."""

    exit_code = 4


class BrokerUnavailable(BrokerError):
    """No broker answered in time; trying again later is the remedy."""


class TopicMismatch(BrokerError):
    """A topic is missing or has another shape than the configuration says."""

    exit_code = 5


class TransactionAborted(BrokerError):
    """The transaction was rolled back: nothing of it is visible, and memory has to be restored."""


class Fenced(BrokerError):
    """Another process with the same instance name took over; this one has to exit."""

    exit_code = 6


class OutcomeUnknown(BrokerError):
    """It is not known whether the commit happened; exit, restart, and read the truth back."""

    exit_code = 7
