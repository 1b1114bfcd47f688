"""Workers under seeded schedules of faults: nothing lost, nothing twice, and the state of an undisturbed run.

A failing schedule prints its seed; `SIMULATION_SEED=… pytest tests/unit/test_simulation.py` replays exactly that one
and tells what happened. `SIMULATION_SCHEDULES` runs more of them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context

import pytest
import structlog

from stream_monitor import wire
from stream_monitor.errors import VersionUnknown
from tests.unit.chaos import EVERY_FAULT
from tests.unit.simulation import RELEASES, Simulation

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "2000"))
CHUNK = 50


def quiet() -> None:
    """Thousands of injected faults would each be logged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@contextmanager
def processes(count: int | None) -> Iterator[ProcessPoolExecutor]:
    """Processes in which a seed decides everything: sets of texts have one order there, whoever asks."""
    given = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=quiet) as pool:
            yield pool
    finally:
        if given is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = given


def run_one(seed: int) -> tuple[list[str], Simulation]:
    """What is wrong with a schedule, and the schedule as it ended."""
    simulation = Simulation(seed)
    try:
        return simulation.run(), simulation
    except Exception as error:
        return [f"{type(error).__name__}: {error}"], simulation


def run_chunk(seeds: list[int]) -> tuple[list[str], Counter[str], int, float]:
    """What is wrong with the first schedule that fails, the faults injected, the alerts published, and CPU seconds."""
    faults: Counter[str] = Counter()
    alerts, started_s = 0, time.process_time()
    for seed in seeds:
        problems, simulation = run_one(seed)
        if problems:
            return [f"SIMULATION_SEED={seed}", *problems], faults, alerts, 0.0
        faults += simulation.faults
        alerts += simulation.alerts
    return [], faults, alerts, time.process_time() - started_s


def told(seed: int) -> tuple[list[str], list[str]]:
    """What is wrong with a schedule, and what happened in it."""
    problems, simulation = run_one(seed)
    return problems, simulation.happened


def chunks() -> Iterator[list[int]]:
    seeds = iter(range(SCHEDULES))
    return iter(lambda: list(islice(seeds, CHUNK)), [])


@pytest.mark.slow
@pytest.mark.skipif("SIMULATION_SEED" in os.environ, reason="one schedule is asked for")
def test_thousands_of_schedules() -> None:
    faults: Counter[str] = Counter()
    alerts, cpu_s, started_s = 0, 0.0, time.monotonic()
    with processes(os.cpu_count()) as pool:
        for problems, struck, published, took_s in pool.map(run_chunk, chunks()):
            assert not problems, "\n".join(problems)
            faults += struck
            alerts += published
            cpu_s += took_s
    took = f"{time.monotonic() - started_s:.0f} s, {cpu_s:.0f} s of CPU"
    print(f"{SCHEDULES:,} schedules, {faults.total():,} faults, {alerts:,} alerts: {took}")
    assert alerts > 2 * SCHEDULES, "schedules without alerts prove little"
    never = sorted(EVERY_FAULT - faults.keys())
    assert not never or SCHEDULES < 1_000, f"faults that never struck: {never}"
    assert faults.keys() <= EVERY_FAULT, "what strikes is listed"


@pytest.mark.skipif("SIMULATION_SEED" not in os.environ, reason="SIMULATION_SEED names a schedule to replay")
def test_one_schedule() -> None:
    with processes(1) as pool:
        problems, happened = pool.submit(told, int(os.environ["SIMULATION_SEED"])).result()
    print("\n".join(happened))
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


def test_a_schedule_replays_exactly_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the order of sets would be another one, and after other schedules."""
    tellings = []
    for hash_seed, seeds in (("1", [3, 5]), ("2", [8, 3, 5])):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        with processes(1) as pool:
            tellings.append(list(pool.map(told, seeds))[-2:])
    assert tellings[0] == tellings[1]
    assert all(not problems and happened for problems, happened in tellings[0])
