import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dnexport.errors import BuildFailed, TargetUnavailable, WorkerCrashed
from dnexport.runtimes.isolate import Worker


def add(a: int, b: int) -> int:
    return a + b


def refuse() -> None:
    raise TargetUnavailable("no such device", "buy one")


def fail() -> None:
    print("[E] the vendor's own words", file=sys.stderr)
    raise KeyError("lost")


def crash() -> None:
    ctypes.string_at(0)


def exhaust() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


def hang() -> None:
    time.sleep(60)


def chatter() -> str:
    os.write(1, b"text on standard output\n" * 1000)
    print("more", flush=True)
    return "still in order"


def environment() -> dict[str, str]:
    return dict(os.environ)


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, step: np.ndarray) -> int:
        self.value += int(step.sum())
        return self.value


def test_answers_and_keeps_an_object() -> None:
    with Worker("counting") as worker:
        assert worker.call(add, 2, 3) == 5
        worker.create(Counter, 10)
        assert worker.method("add", np.ones(1_000_000, np.int64)) == 1_000_010
        assert worker.method("add", np.ones(1)) == 1_000_011


def test_a_worker_has_the_environment_of_its_user() -> None:
    """How threads wait and how many there are is the libraries' own choice, as it is for those who use them."""
    for parked in (False, True):
        with Worker("looking", env={"GIVEN": "yes"}, parked=parked) as worker:
            added = dict(set(worker.call(environment).items()) - set(os.environ.items()))
        assert {"GIVEN", "TMPDIR"} <= added.keys() <= {"GIVEN", "TMPDIR", "PYTHONUNBUFFERED"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_parked_worker_stands_still_between_calls_and_ends_all_the_same() -> None:
    def state(worker: Worker) -> str:
        return Path(f"/proc/{worker.process}/stat").read_text().rpartition(")")[2].split()[0]

    with Worker("parking", parked=True) as worker:
        for _ in range(3):
            assert worker.call(add, 2, 3) == 5
            deadline = time.monotonic() + 5
            while state(worker) != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert state(worker) == "T"
        process = worker.process
    assert not Path(f"/proc/{process}").exists()
    with Worker("failing", parked=True) as worker, pytest.raises(BuildFailed):
        worker.call(fail)


def test_what_libraries_print_does_not_disturb() -> None:
    with Worker("chatting") as worker:
        assert worker.call(chatter) == "still in order"
        assert worker.call(add, 1, 1) == 2


def test_our_errors_come_through_as_they_are() -> None:
    with Worker("refusing") as worker:
        with pytest.raises(TargetUnavailable, match="no such device; buy one"):
            worker.call(refuse)
        assert worker.call(add, 1, 1) == 2


def test_other_errors_are_named_with_the_last_words() -> None:
    with Worker("failing") as worker, pytest.raises(BuildFailed) as caught:
        worker.call(fail)
    assert str(caught.value) == "failing failed: KeyError: 'lost'; its last words: [E] the vendor's own words"
    assert "Traceback" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (crash, "crashing crashed with SIGSEGV"),
        (exhaust, "crashing was killed; it most likely ran out of memory; give a smaller batch"),
        (leave, "crashing ended with exit code 3"),
    ],
)
def test_a_death_has_a_name(function: object, message: str) -> None:
    with Worker("crashing") as worker:
        with pytest.raises(WorkerCrashed, match=message):
            worker.call(function)
        with pytest.raises(WorkerCrashed):
            worker.call(add, 1, 1)


def test_a_hang_ends() -> None:
    with Worker("hanging") as worker, pytest.raises(WorkerCrashed, match=r"hanging gave no answer for 1 s"):
        worker.call(hang, timeout_s=1)


def test_close_may_be_called_twice() -> None:
    worker = Worker("closing")
    worker.close()
    worker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux")
def test_a_worker_dies_with_its_parent() -> None:
    program = (
        "import os, time\nfrom dnexport.runtimes.isolate import Worker\n"
        "w = Worker('orphan')\nprint(w.call(os.getpid), flush=True)\nw.call(time.sleep, 60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(worker)


def _running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
