"""What the benchmarks compute themselves; their measurements are in docs/results.md."""

import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import quantization


def test_a_process_is_ended_for_its_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "x = bytearray(300 << 20)\nwhile True: pass"]
    done = processes.watched(command, tmp_path, limit_bytes=100 << 20, limit_s=20)
    assert done.code is None
    assert done.peak_bytes > 100 << 20
    assert quantization.failure(done) == "out of memory: more than 12 GB"


def test_a_process_is_ended_for_its_time_and_errors_are_quoted(tmp_path: Path) -> None:
    done = processes.watched([sys.executable, "-c", "while True: pass"], tmp_path, limit_s=1)
    assert done.code not in (0, None)
    failed = processes.watched([sys.executable, "-c", "raise ValueError('no such thing')"], tmp_path)
    assert quantization.failure(failed) == "failed: ValueError: no such thing"


def test_the_peak_is_that_of_all_processes(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(200 << 20); import time; time.sleep(1)'])"
    done = processes.watched([sys.executable, "-c", child], tmp_path)
    assert done.code == 0
    assert 200 << 20 < done.peak_bytes < 400 << 20


@pytest.mark.parametrize(
    ("lost", "gained", "text"), [(0, 0, "50.00% (0.00)"), (3, 1, "49.80% (+0.20, -0.24 to +0.39)")]
)
def test_the_paired_loss_has_an_exact_interval(lost: int, gained: int, text: str) -> None:
    """Clopper and Pearson's 95 % interval of 3 in 4 is 0.194 to 0.994: 4 changes in 1000 are −0.24 to +0.39 points."""
    labels = np.zeros(1000, np.int64)
    was = np.eye(2)[(np.arange(1000) < 500).astype(int)]
    now = was.copy()
    right, wrong = np.flatnonzero(was.argmax(1) == 0), np.flatnonzero(was.argmax(1) == 1)
    now[right[:lost]] = [0, 1]
    now[wrong[:gained]] = [1, 0]
    assert quantization.accuracy(was, now, labels) == text
