"""The README's subscriber, run as pasted, but for the address and the topic."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stream_monitor.events import Row
from stream_monitor.reference import Reference
from tests.integration.conftest import PATIENCE_S, Deploy

README = Path(__file__).parents[2] / "README.md"


def subscriber() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return str(code)


def test_the_subscriber_is_short() -> None:
    assert len([line for line in subscriber().splitlines() if line]) <= 15


@pytest.mark.kafka
def test_the_subscriber_works_as_pasted(deploy: Deploy, reference: Reference, production: list[Row]) -> None:
    deployment = deploy(reference)
    deployment.produce(production[20_000:30_000])
    deployment.start_worker("a")
    code = subscriber()
    for here, there in (("localhost:9092", deployment.address), ("drift-alerts", deployment.settings.topics.alerts)):
        assert here in code
        code = code.replace(here, there)
    pager = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    patience = threading.Timer(PATIENCE_S, pager.kill)
    patience.start()
    try:
        assert pager.stdout is not None
        line = pager.stdout.readline()
    finally:
        patience.cancel()
        pager.kill()
        pager.communicate()
    assert line.startswith("car-loan ")
    assert " since 2019-0" in line
    assert deployment.stop_workers() == [0], deployment.log_of("a")
