"""Flushed caches hold nothing of what was read before, and calls with cold caches cost more."""

from __future__ import annotations

import os
import statistics
import time

import pytest
import torch

from akg_dynamo.agents.profiler import cold
from akg_dynamo.agents.profiler.cold import HostCaches, cold_on_host
from akg_dynamo.core.types import Timing


def test_what_was_flushed_is_read_from_memory() -> None:
    data, caches = bytearray(b"\x01") * (512 << 10), HostCaches()

    def seconds(flush: bool) -> float:
        taken = []
        for _ in range(15):
            if flush:
                caches.flush()
            start = time.perf_counter()
            data.find(b"\x00")
            taken.append(time.perf_counter() - start)
        return min(taken)  # whatever else runs only makes it longer, flushed or not

    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
        seconds(flush=False)
        assert seconds(flush=True) > 1.5 * seconds(flush=False)
        assert os.sched_getaffinity(0) == {max(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)


def test_every_core_s_own_caches_are_flushed_and_the_process_may_run_on_all_afterwards() -> None:
    allowed = os.sched_getaffinity(0)
    HostCaches().flush()
    assert os.sched_getaffinity(0) == allowed


def test_calls_alternate_each_after_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(HostCaches, "flush", lambda self: done.append("flush"))
    sets = [[0], [1]]
    eager_us, kernel_us = cold_on_host(lambda i: done.append(("kernel", i)), lambda i: done.append(("eager", i)), sets)
    assert eager_us > 0
    assert kernel_us > 0
    assert done[:8] == ["flush", ("eager", 0), "flush", ("kernel", 0), "flush", ("eager", 1), "flush", ("kernel", 1)]
    assert len(done) == 4 * cold.SAMPLES


def test_how_much_a_cache_holds_is_what_the_system_says() -> None:
    assert cold.cache_bytes() >= 16 << 20
    said = [f for f in cold._CACHES.glob("index*/size") if f.read_text().strip() == f"{cold.cache_bytes() >> 10}K"]
    assert said or cold.cache_bytes() == cold._LEAST_BYTES // 2


def test_a_ratio_needs_both_times() -> None:
    assert Timing(2, 2, 2, 20, 10, 0, 0, 60.0, 20.0).cold_ratio == 3
    assert Timing(2, 2, 2, 20, 10, 0, 0, 60.0, 0.0).cold_ratio == 0
    assert Timing(2, 2, 2, 20, 10).cold_ratio == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_s_cache_is_flushed() -> None:
    caches, x = cold.DeviceCaches(), torch.ones(1 << 20, device="cuda")

    def seconds(flush: bool) -> float:
        taken = []
        for _ in range(15):
            if flush:
                caches.flush()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            x.sum()
            end.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(end))
        return statistics.median(taken)

    seconds(flush=False)
    assert seconds(flush=True) > seconds(flush=False)
