"""What the commands share: options, loading of settings, clean errors, the stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from stream_monitor import log
from stream_monitor.broker.protocol import Broker
from stream_monitor.config_base import CONFIG_VARIABLE
from stream_monitor.errors import ConfigError, Fault, StreamMonitorError
from stream_monitor.heartbeat import BeatingStop, touch

if TYPE_CHECKING:
    from rich.console import Console

    from stream_monitor.config import Settings


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=CONFIG_VARIABLE,
        metavar="FILE",
        help="The YAML file. Without it, the environment and the defaults hold.",
    ),
]


class _Verbosity:
    """How much the user wants to see; kept for `main`, which prints errors when the options are gone."""

    level = 0


def _remember(count: int) -> int:
    _Verbosity.level = max(_Verbosity.level, count)
    return count


Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        callback=_remember,
        show_default=False,
        metavar="",
        help="Log more; -vv also shows tracebacks.",
    ),
]


def verbosity() -> int:
    return _Verbosity.level


def prepare(config: Path | None, *, needs_kafka: bool = True, service: bool = False) -> Settings:
    """The settings, with logging set up: by them for a `service`, warnings only for a command that prints its result.

    Raises ConfigError with every fault.
    """
    from stream_monitor.config import load  # lazily: with the detectors' defaults it takes half a second, --help none

    settings = load(config, needs_kafka=needs_kafka)
    log.setup(settings.log.level if service else "warning", settings.log.format if service else "console", verbosity())
    return settings


@contextmanager
def broker_of(settings: Settings) -> Iterator[Broker]:
    """The Kafka that the settings name; raises BrokerUnavailable if it does not answer."""
    from stream_monitor.broker.kafka import KafkaBroker  # lazily: most commands need no Kafka client

    broker = KafkaBroker(settings.kafka.to_settings())
    try:
        yield broker
    finally:
        broker.close()


def explain(error: StreamMonitorError) -> None:
    """Say on standard error what is wrong, one line a problem."""
    title = typer.style("error:", fg=typer.colors.RED, bold=True)
    if isinstance(error, ConfigError):
        lines = [str(fault) for fault in error.faults]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} problems")
    else:
        lines = str(error).splitlines() or [type(error).__name__]
    typer.echo("\n  ".join([f"{title} {lines[0]}", *lines[1:]]), err=True)


def stop_on_signals(heartbeat: Path | None) -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once. See `BeatingStop`."""
    if heartbeat is not None:
        try:
            touch(heartbeat)
        except OSError as error:
            fault = Fault("worker.heartbeat_file", str(heartbeat), f"cannot be written: {error.strerror or error}",
                          "name a file in a directory that exists and can be written")  # fmt: skip
            raise ConfigError([fault]) from error
    stop = BeatingStop(heartbeat)

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        # Not through logging: a handler may run in the middle of another write to the same stream.
        os.write(2, b"stopping: committing what is done (once more to exit at once)\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def wide_console() -> Console:
    """Standard output as the terminal has it; wider where it goes into a file or a pipe, which need no folding."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)
