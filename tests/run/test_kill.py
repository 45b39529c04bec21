import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import steelyard
from steelyard.errors import RunError
from steelyard.run import open_run, read_manifest

DRIVER = Path(__file__).with_name("driver.py")
KILLS = 15


def start(out: Path, log: Path, *, seconds: float = 0.02) -> subprocess.Popen[bytes]:
    source = str(Path(steelyard.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(DRIVER), str(out), str(log), str(seconds)], env=environment)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def wait_for_growth(log: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while len(lines(log)) < count and process.poll() is None:
        time.sleep(0.002)


def contents(folder: Path) -> dict[str, bytes]:
    names = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in names}


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_killed_at_random_the_same_command_gives_the_same_bits(tmp_path, seed):
    whole = start(tmp_path / "whole", tmp_path / "whole.log")
    assert whole.wait() == 0

    out, log = tmp_path / "killed", tmp_path / "killed.log"
    chance = random.Random(seed)
    killed = 0
    for _ in range(KILLS):
        process = start(out, log)
        # Some kills fall before the run is open, most between or into the writing of parts.
        if chance.random() < 0.85:
            wait_for_growth(log, len(lines(log)) + chance.randint(1, 3), process)
        time.sleep(chance.uniform(0, 0.03))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 12, "the driver finished too early for this test to mean anything"
    process = start(out, log)
    assert process.wait() == 0

    assert contents(out) == contents(tmp_path / "whole")
    assert not out.with_name("killed.part").exists()
    assert not out.with_name("killed.lock").exists()
    finished = read_manifest(out)
    assert finished.status == "finished"
    assert finished.sessions > 1
    assert np.load(out / "result.npy").shape == (3600, 200)
    check_nothing_was_repeated(lines(log))


def check_nothing_was_repeated(log: list[str]) -> None:
    kept: set[str] = set()
    for line in log:
        word, _, part = line.partition(" ")
        if word == "kept":
            kept.add(part)
        elif word == "computing":
            assert part not in kept, f"part {part} was computed again after it was kept"
    assert len(kept) == 24


def test_a_finished_run_is_not_computed_again(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    assert start(out, log).wait() == 0
    before, manifest = contents(out), (out / "manifest.json").read_text()
    computed = [line for line in lines(log) if line.startswith("computing")]
    assert len(computed) == 24
    assert start(out, log).wait() == 0
    assert [line for line in lines(log) if line.startswith("computing")] == computed
    assert contents(out) == before
    assert (out / "manifest.json").read_text() == manifest


def test_interrupt_from_the_keyboard_loses_nothing(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(out, log, seconds=0.1)
    wait_for_growth(log, 6, process)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert process.returncode != 0
    manifest = json.loads((tmp_path / "run.part" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    kept = {line for line in lines(log) if line.startswith("kept")}
    assert kept
    assert start(out, log).wait() == 0
    check_nothing_was_repeated(lines(log))
    # Every part was computed once, but for the one that the interrupt fell into.
    assert 24 <= read_manifest(out).cost.gradients <= 25


def test_two_processes_cannot_share_a_folder(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    first = start(out, log)
    wait_for_growth(log, 1, first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second one tries
    second = subprocess.run(
        [sys.executable, "-c", SECOND, str(out)],
        env={**os.environ, "PYTHONPATH": str(Path(steelyard.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert f"is in use: process {first.pid} on " in second.stdout
    assert " has held it since 20" in second.stdout
    assert "fix: wait for it to end" in second.stdout


def test_a_process_forked_from_a_killed_run_still_holds_the_folder(tmp_path):
    source = str(Path(steelyard.__file__).parents[1])
    parent = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    child = int(parent.stdout)
    try:
        with (
            pytest.raises(RunError, match="that process has ended, but one that it started is still running"),
            open_run(tmp_path / "run", {}, show="quiet"),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open_run(tmp_path / "run", {}, show="quiet") as run:
                run.keep("a", lambda: {"values": np.ones(3)})
            break
        except RunError:
            time.sleep(0.02)
    assert read_manifest(tmp_path / "run").status == "finished"


FORKS = """
import os, signal, sys, time
from steelyard.run import open_run
with open_run(sys.argv[1], {}, show="quiet"):
    child = os.fork()
    if child == 0:
        os.close(1)
        os.close(2)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

SECOND = """
import sys
from steelyard.errors import RunError
from steelyard.run import open_run
try:
    with open_run(sys.argv[1], {"command": "test", "parts": 24}, show="quiet"):
        print("opened")
except RunError as error:
    print(error)
"""
