"""Killed at any moment: the previous bundle stays valid, and the next run leaves nothing of the killed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
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


def finish(path: Path, temporary: Path) -> None:
    process = begun(path, temporary)
    assert process.wait() == 0
    process.stdout.close()


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


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_fifty_kills_leave_a_valid_bundle_and_nothing_else(bundle: Bundle, tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    path = home / "b"
    shutil.copytree(bundle.path, path)
    start = time.monotonic()
    finish(path, temporary)
    whole = time.monotonic() - start
    draw = random.Random(0)
    interrupted = 0
    for _ in range(KILLS):
        process = begun(path, temporary)
        time.sleep(draw.uniform(0, whole))
        interrupted += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        Bundle.open(path)  # every file is there and whole
    assert interrupted > KILLS / 2
    deadline = time.monotonic() + 2
    while (left := members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []  # the workers die with their parent
    finish(path, temporary)
    assert [each.name for each in home.iterdir()] == ["b"]
    left_by_others = {"cache", ".ses"}  # ONNX Runtime keeps one file of its own
    assert {each.name for each in temporary.iterdir()} <= left_by_others
    assert time.monotonic() - start < 60
