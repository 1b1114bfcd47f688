"""The JSON Schemas of what goes in and out, as `stream-monitor schema` prints them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stream_monitor import alerts
from stream_monitor.config import Settings
from stream_monitor.events import MAX_NAME_LENGTH

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event() -> dict[str, Any]:
    """An event in the default shape. A record holds one, an array of them, or one a line."""
    name = {"type": ["string", "number", "boolean", "null"], "maxLength": MAX_NAME_LENGTH}
    scalar = ["number", "string", "boolean", "null"]
    return {
        "$schema": DIALECT,
        "title": "Prediction event",
        "type": "object",
        "required": ["model", "features"],
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH},
            "version": {**name, "description": "The model's version; versions are watched apart."},
            "segment": {**name, "description": "A part of the traffic that is watched by itself."},
            "id": {"type": ["string", "number", "boolean", "null"], "description": "To find the event again."},
            "time": {
                "type": ["string", "number", "null"],
                "description": "RFC 3339 (UTC if it names no zone) or epoch milliseconds; else the record's timestamp.",
            },
            "features": {
                "type": "object",
                "description": "Name to value. Nested objects read as dotted names. A value that is null, absent, NaN "
                "or of the wrong type is watched as such.",
            },
            "prediction": {"type": [*scalar, "object"], "description": "A number, a category, or class to score."},
            "label": {"type": scalar, "description": "The outcome, where it is known already."},
        },
    }


def label() -> dict[str, Any]:
    """A label in the default shape, of the topic of labels. A record holds one, an array of them, or one a line."""
    return {
        "$schema": DIALECT,
        "title": "Label",
        "type": "object",
        "required": ["model", "id", "label"],
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH},
            "id": {"type": ["string", "number"], "minLength": 1, "description": "The id of the event."},
            "label": {"type": ["number", "string", "boolean"], "minLength": 1, "description": "The outcome."},
            "time": {
                "type": ["string", "number", "null"],
                "description": "When it became known: RFC 3339 or epoch milliseconds; else the record's timestamp.",
            },
        },
    }


def config() -> dict[str, Any]:
    """The configuration file; editors complete and check by it."""
    return {"$schema": DIALECT, **Settings.model_json_schema()}


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "event": event, "label": label, "alert": alerts.schema, "config": config,
}  # fmt: skip
