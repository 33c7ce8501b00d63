"""Folders that are held while they are worked in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnexport.runtimes import scratch
from dnexport.runtimes.scratch import held, is_abandoned, remove_abandoned

HOLDER = "import sys, pathlib\nfrom dnexport.runtimes.scratch import held\nwith held(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"  # fmt: skip


@pytest.mark.parametrize("number", ["1", "999999999", "ours"])
def test_a_folder_is_its_holders_whatever_number_it_has(tmp_path: Path, number: str) -> None:
    """In another container its process has another number, or ours, or one that nobody has here."""
    number = str(os.getpid()) if number == "ours" else number
    folder = tmp_path / f".x.{number}.partial"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        assert not is_abandoned(folder)
        remove_abandoned([folder])
        assert folder.is_dir()
        other.kill()
        other.wait()
    assert is_abandoned(folder)
    remove_abandoned([folder])
    assert not folder.exists()


def test_it_goes_with_its_holder_unless_it_was_moved(tmp_path: Path) -> None:
    with held(tmp_path / ".a.1.partial") as folder:
        (folder / "file").touch()
    assert not folder.exists()
    with held(tmp_path / ".b.1.partial") as folder:
        folder.rename(tmp_path / "b")
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    with pytest.raises(FileExistsError), held(tmp_path / "b"):
        pass
    assert (tmp_path / "b").is_dir()


def test_where_there_are_no_locks_the_number_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "fcntl", None)
    with held(tmp_path / f".a.{os.getppid()}.partial") as folder:
        assert not is_abandoned(folder)
    with held(tmp_path / ".a.999999999.partial") as folder:
        assert is_abandoned(folder)
