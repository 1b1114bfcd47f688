"""Logging: structlog to standard error, as readable lines or as JSON; never a secret.

Everything logs through `structlog.get_logger()`; libraries that use the standard library's logging come out the same.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET = ("password", "secret", "token", "credential", "salt")
_LIBRARIES = ("kafka", "numba", "asyncio")
_LIBRARY_LEVELS = (logging.CRITICAL, logging.WARNING, logging.INFO)
"""By verbosity. Their errors (a connection lost and found) reach us as exceptions, so that we say them once, in our
words; never DEBUG, where kafka-python prints requests, passwords included."""


def setup(level: str = "info", form: str = "console", verbosity: int = 0, stream: TextIO | None = None) -> None:
    """Configure logging for the process; `verbosity` 1 lowers the level to debug and lets libraries warn, 2 inform."""
    stream = stream or sys.stderr
    threshold = logging.DEBUG if verbosity else logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        mask_secrets,
    ]
    renderer: list[Processor]
    if form == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=32)]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(_LIBRARY_LEVELS[min(verbosity, 2)])


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: values under a key that names a secret are replaced."""
    for key in event:
        if any(word in key.lower() for word in _SECRET) and event[key] is not None:
            event[key] = "***"
    return event
