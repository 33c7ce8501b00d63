"""Flags become the recipe that a file would."""

import os
from pathlib import Path

import pytest

from dnexport.cli.flags import recipe_from_flags


def test_what_is_stored_can_be_read_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "arch": "densenet121",
        "weights": "w.pt",
        "data": "flowers/",
        "calibration": {"data": "./flowers", "count": 8},
        "quantization": {"plan": "../plan.json"},
        "precision": "int8",
    }
    found = recipe_from_flags(None, values, suffix="precision")
    assert (found.weights, found.data) == (f"{tmp_path}/w.pt", f"{tmp_path}/flowers")
    assert found.calibration.data == found.data, "the same folder is the same, however it is spelt"
    assert found.quantization.plan == os.path.abspath("../plan.json")


def test_words_stay_words_and_links_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = recipe_from_flags(None, {"arch": "densenet121", "weights": "random:3", "data": "digits"}, suffix="precision")  # fmt: skip
    assert (found.weights, found.data, found.name) == ("random:3", "digits", "densenet121-fp16")
    (tmp_path / "flowers.pt").symlink_to(tmp_path / "3f0c")
    found = recipe_from_flags(None, {"weights": "flowers.pt"}, suffix="precision")
    assert (found.weights, found.name) == (f"{tmp_path}/flowers.pt", "flowers-fp16")
