from pathlib import Path

import pytest

from dnexport.build.stages import Stages
from dnexport.errors import StorageError
from dnexport.spec.progress import Silent


def write(folder: Path) -> None:
    (folder / "result").write_text("made")


def test_equal_inputs_are_reused_and_others_are_not(tmp_path: Path) -> None:
    stages = Stages(tmp_path, Silent())
    first = stages.run("export", 1, {"weights": "a"}, write)
    assert not stages.runs["export"].reused
    stages = Stages(tmp_path, Silent())
    assert stages.run("export", 1, {"weights": "a"}, lambda _: pytest.fail("made again")) == first
    assert stages.runs["export"].reused
    assert stages.run("export", 1, {"weights": "b"}, write) != first
    assert stages.run("export", 2, {"weights": "a"}, write) != first, "a new version of the stage's code"


def test_a_stage_of_two_graphs_is_reused_where_both_are(tmp_path: Path) -> None:
    for reused in (False, True):
        stages = Stages(tmp_path, Silent())
        for graph in ("a", "b", "a"):
            stages.run("lower", 1, {"graph": graph}, write)
        assert stages.runs["lower"].reused is reused


def test_a_new_library_version_makes_stages_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Stages(tmp_path, Silent()).run("export", 1, {}, write)
    monkeypatch.setattr("dnexport.build.stages.package_versions", lambda: {"onnx": "99"})
    assert Stages(tmp_path, Silent()).run("export", 1, {}, write) != first


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, Silent()).run("export", 1, {}, fail)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_has_its_own_error(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "model.onnx"))

    with pytest.raises(StorageError, match=r"cannot write .*model\.onnx: no space left on device; free some space"):
        Stages(tmp_path, Silent()).run("export", 1, {}, fill)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "made?"])
def test_a_damaged_result_is_made_again(tmp_path: Path, content: str) -> None:
    folder = Stages(tmp_path, Silent()).run("export", 1, {}, write)
    (folder / "result").write_text(content)
    stages = Stages(tmp_path, Silent())
    stages.run("export", 1, {}, write)
    assert not stages.runs["export"].reused
    assert (folder / "result").read_text() == "made"


def test_a_stage_without_its_last_file_is_made_again(tmp_path: Path) -> None:
    folder = Stages(tmp_path, Silent()).run("export", 1, {}, write)
    (folder / "stage.json").unlink()
    (folder / "result").unlink()
    Stages(tmp_path, Silent()).run("export", 1, {}, write)
    assert (folder / "result").read_text() == "made"
