"""Killed at any moment: the previous bundle stays valid, and the next run leaves nothing of the killed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dnexport.bundle.verify import Bundle
from tests.bundle.test_session import built

KILLS = 50
COMPILING = """
import sys
from pathlib import Path
from dnexport.bundle.verify import Bundle
from dnexport.deploy.native import compile_bundle
from dnexport.spec.progress import Silent
sys.modules["torch"] = None
bundle = Bundle.open(Path(sys.argv[1]))
print("begun", flush=True)
compile_bundle(bundle, "onnxruntime:cpu", Silent())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    arch = "densenet(blocks=1-1,k=4,stem=cifar,init=8,classes=3)"
    return built(tmp_path_factory.mktemp("kill") / "b", arch=arch, targets=["onnxruntime:cpu"])


def begun(path: Path, temporary: Path) -> subprocess.Popen[str]:
    """The pipeline, in a session of its own, past its imports."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILING, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(temporary / "cache")},
    )
    assert process.stdout.readline() == "begun\n"
    return process


def finish(path: Path, temporary: Path) -> float:
    """Let it run to its end; the seconds after its imports."""
    process = begun(path, temporary)
    start = time.monotonic()
    assert process.wait() == 0
    process.stdout.close()
    return time.monotonic() - start


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(group) == session and state != "Z":
                found.append(int(entry.name))
    return found


def killed(path: Path, temporary: Path, whole: float, seed: int) -> tuple[int, list[int]]:
    """Kill the pipeline again and again; how many were still at work, and what outlived the last of them."""
    draw, interrupted = random.Random(seed), 0
    for _ in range(KILLS // 2):
        process = begun(path, temporary)
        time.sleep(draw.uniform(0, whole))
        interrupted += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        Bundle.open(path)  # every file is there and whole
    deadline = time.monotonic() + 2
    while (left := members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return interrupted, left


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_fifty_kills_leave_a_valid_bundle_and_nothing_else(bundle: Bundle, tmp_path: Path) -> None:
    """Two bundles at a time, which share the folder for temporary files."""
    temporary, start = tmp_path / "tmp", time.monotonic()
    temporary.mkdir()
    paths = [tmp_path / name / "b" for name in ("one", "two")]
    for path in paths:
        shutil.copytree(bundle.path, path)
    whole = finish(paths[0], temporary)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(killed, paths, [temporary] * 2, [whole] * 2, range(2)))
    assert sum(interrupted for interrupted, _ in found) > KILLS / 2
    assert [left for _, left in found] == [[], []]  # the workers die with their parent
    for path in paths:
        finish(path, temporary)
        assert [each.name for each in path.parent.iterdir()] == ["b"]
    left_by_others = {"cache", ".ses"}  # ONNX Runtime keeps one file of its own
    assert {each.name for each in temporary.iterdir()} <= left_by_others
    assert time.monotonic() - start < 600  # 25 s on a quiet machine
