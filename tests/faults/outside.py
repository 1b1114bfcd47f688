"""What a worker shows of itself over HTTP, as a probe and a scraper see it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Shown:
    """Readiness and why, liveness, and the figures by name and labels; `None` where nothing answers."""

    ready: bool | None = None
    why: str = ""
    alive: bool | None = None
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a figure over all the labels that are not given."""
        return sum(value for found, given, value in self.samples if found == name and labels.items() <= given.items())


def look(log: str) -> Shown:
    """Ask the server that the last run in this log has opened."""
    try:
        (ready, why), (alive, _), (_, text) = pages(log)
    except (OSError, LookupError):
        return Shown()
    families = text_string_to_metric_families(text)
    return Shown(ready, why, alive, [(s.name, s.labels, s.value) for family in families for s in family.samples])


def pages(log: str) -> list[tuple[bool, str]]:
    """Whether /readyz, /healthz and /metrics say yes, and all that they say; raises OSError, or LookupError where
    nobody serves them."""
    port = re.findall(r"serving /metrics.*\bport=(\d+)", log)[-1]
    return [_get(port, path) for path in ("/readyz", "/healthz", "/metrics")]


def _get(port: str, path: str) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return True, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return False, refusal.read().decode()
