import subprocess
import sys
import time
from pathlib import Path

from dnexport.bundle.lock import locked

COUNTING = """
import sys, time
from pathlib import Path
from dnexport.bundle.lock import locked
counter, lock = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(40):
    with locked(lock):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
"""


def test_processes_take_turns_and_leave_no_file(tmp_path: Path) -> None:
    counter, lock = tmp_path / "counter", tmp_path / "lock"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNTING, str(counter), str(lock)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert counter.read_text() == "160"
    assert not lock.exists()


def test_one_that_died_holds_nobody_up(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holding = f"from dnexport.bundle.lock import locked; from pathlib import Path; import time\nwith locked(Path({str(lock)!r})): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.kill()
        holder.wait()
    assert lock.exists()
    start = time.monotonic()
    with locked(lock):
        pass
    assert time.monotonic() - start < 1
    assert not lock.exists()
