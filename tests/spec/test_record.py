import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnexport.errors import error_from_os_error
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.quantization import Range
from dnexport.spec.record import digest_from_file, digest_from_json, write_atomically


def test_a_digest_does_not_depend_on_key_order() -> None:
    assert digest_from_json({"a": 1, "b": [2.5]}) == digest_from_json({"b": [2.5], "a": 1})
    assert digest_from_json({"a": 1}) != digest_from_json({"a": 2})


def test_writes_whole_files_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_has_a_remedy() -> None:
    error = error_from_os_error(OSError(errno.ENOSPC, "No space left on device", "/x/y"), Path("/x"))
    assert str(error) == "cannot write /x/y: no space left on device; free some space or choose another --output"
    assert error.exit_code == 5
    missing = error_from_os_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"), Path("/x"))
    assert (str(missing), missing.exit_code) == ("cannot use /x/y: no such file or directory; check the path", 3)


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert digest_from_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_a_scale_is_positive_and_covers_the_range(lo: float, width: float) -> None:
    scale = Range(lo=lo, hi=lo + width).scale
    assert scale > 0
    assert np.abs([lo, lo + width]).max() <= scale * 127 * (1 + 1e-12)


def test_an_inverted_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="lo <= hi"):
        Range(lo=1, hi=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"std": (0.0, 1.0, 1.0)}, "mean and std are in units of full scale, 0 to 1"),
        ({"mean": (123.675, 116.28, 103.53)}, "divide those for 0 to 255 by 255"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "finite number"),
        ({"input_size": (9000, 9000)}, "between 1 and 8192 pixels"),
        ({"mean": (0.5,)}, "mean and std have 3 values"),
        ({"resize": 200}, "resize 200 is smaller than the crop"),
        ({"channels": "grey"}, "mean and std have 1 values for channels 'grey'"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocess(**wrong)
