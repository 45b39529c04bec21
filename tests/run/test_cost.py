import threading
import time
from pathlib import Path

import numpy as np
import pytest

from steelyard.records import Cost
from steelyard.run import cost
from steelyard.run.cost import Meter, memory

MIB = 2**20
proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def test_spending_adds_up_on_top_of_earlier_sessions():
    meter = Meter(Cost(gradients=10.0, fits=1, seconds=100.0, peak_bytes=7 * 2**40, disk_bytes=5))
    meter.spend(gradients=2.5)
    meter.spend(fits=2, disk_bytes=3)
    read = meter.read()
    assert (read.gradients, read.fits, read.peak_bytes, read.disk_bytes) == (12.5, 3, 7 * 2**40, 8)
    assert 100 < read.seconds < 110


def test_threads_lose_no_count():
    meter = Meter()
    threads = [
        threading.Thread(target=lambda: [meter.spend(gradients=1, fits=1) for _ in range(500)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (meter.read().gradients, meter.read().fits) == (4000, 4000)


@proc
def test_a_new_high_of_memory_is_measured_even_between_samples():
    meter = Meter()
    resident, highest = memory()
    size = max(64 * MIB, highest - resident + 64 * MIB)
    block = np.ones(size, dtype=np.uint8)
    del block
    assert meter.read().peak_bytes == pytest.approx(size, rel=0.25)


@proc
def test_below_an_older_high_the_samples_count(monkeypatch):
    older = np.ones(256 * MIB, dtype=np.uint8)
    del older
    meter = Meter()
    monkeypatch.setattr(cost, "_SAMPLE_SECONDS", 0.0)
    block = np.ones(64 * MIB, dtype=np.uint8)
    meter.sample()
    del block
    assert 48 * MIB < meter.read().peak_bytes < 128 * MIB


def test_without_proc_the_system_s_own_counter_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "_STATUS", tmp_path / "missing")
    resident, highest = memory()
    assert resident == highest
    assert 10 * MIB < highest < 2**42


def test_time_passes():
    meter = Meter()
    time.sleep(0.02)
    assert meter.read().seconds >= 0.02
