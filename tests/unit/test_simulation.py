"""Workers under seeded schedules of faults: nothing lost, nothing twice, and the state of an undisturbed run.

A failing schedule prints its seed; `SIMULATION_SEED=… pytest tests/unit/test_simulation.py` replays exactly that one
and tells what happened. `SIMULATION_SCHEDULES` runs more of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context

import pytest
import structlog

from stream_monitor import wire
from stream_monitor.broker.protocol import COMMIT_STEPS
from stream_monitor.errors import VersionUnknown
from tests.unit.simulation import RELEASES, Simulation

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "2000"))
CHUNK = 50


def quiet() -> None:
    """Thousands of injected faults would each be logged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def run_chunk(seeds: list[int]) -> tuple[list[str], Counter[str], int]:
    """What is wrong with the first schedule that fails, the faults injected, and the alerts published."""
    faults: Counter[str] = Counter()
    alerts = 0
    for seed in seeds:
        simulation = Simulation(seed)
        try:
            problems = simulation.run()
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            return [f"SIMULATION_SEED={seed}", *problems], faults, alerts
        faults += simulation.faults
        alerts += simulation.alerts
    return [], faults, alerts


def chunks() -> Iterator[list[int]]:
    seeds = iter(range(SCHEDULES))
    return iter(lambda: list(islice(seeds, CHUNK)), [])


@pytest.mark.slow
@pytest.mark.skipif("SIMULATION_SEED" in os.environ, reason="one schedule is asked for")
def test_thousands_of_schedules() -> None:
    faults: Counter[str] = Counter()
    alerts = 0
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=quiet) as pool:
        for problems, struck, published in pool.map(run_chunk, chunks()):
            assert not problems, "\n".join(problems)
            faults += struck
            alerts += published
    assert alerts > 2 * SCHEDULES, "schedules without alerts prove little"
    never = [f"commit: {fault} at {step}" for step in COMMIT_STEPS for fault in ("killed", "interlude")
             if not faults[f"commit: {fault} at {step}"]]  # fmt: skip
    assert not never, f"faults that never struck: {never}"


@pytest.mark.skipif("SIMULATION_SEED" not in os.environ, reason="SIMULATION_SEED names a schedule to replay")
def test_one_schedule() -> None:
    simulation = Simulation(int(os.environ["SIMULATION_SEED"]))
    try:
        problems = simulation.run()
    finally:
        print("\n".join(simulation.happened))
    assert not problems, "\n".join(problems)


def test_an_upgrade_that_skips_a_step_is_found() -> None:
    """Old and new workers side by side, the new ones writing what the old cannot read: they end with an error."""
    failed = ""
    for seed in range(40):
        try:
            Simulation(seed, (RELEASES[0], RELEASES[-1])).run()
        except VersionUnknown as error:
            failed = str(error)
            break
    assert f"wire version {wire.NEWEST}" in failed


def test_a_schedule_replays_exactly() -> None:
    first, second = Simulation(3), Simulation(3)
    assert first.run() == second.run()
    assert first.happened == second.happened
