from pathlib import Path

import pytest

from dnexport.errors import RecipeError, UsageError
from dnexport.spec.fleets import expanded, fleets
from dnexport.spec.recipe import recipe_from_values
from dnexport.spec.target import Target


def test_every_fleet_that_ships_parses(root: Path) -> None:
    found = fleets(root)
    assert {"jetson-orin", "rtx-ada", "l4", "x86-gateway"} <= found.keys()
    for fleet in found.values():
        assert fleet.targets == tuple(str(Target.parse(text)) for text in fleet.targets)
        assert fleet.about


def test_a_fleet_becomes_its_targets(tmp_path: Path) -> None:
    assert expanded(["@l4", "openvino:cpu"], tmp_path) == ("tensorrt", "onnxruntime:cuda", "openvino:cpu")
    recipe = recipe_from_values({"name": "r", "arch": "densenet121", "targets": ["@l4", "tensorrt"]}, "test")
    assert recipe.targets == ("tensorrt", "onnxruntime:cuda")


def test_a_file_beside_the_command_adds_fleets(tmp_path: Path) -> None:
    own = tmp_path / "engines" / "fleets.toml"
    own.parent.mkdir()
    own.write_text(
        '[shop]\nabout = "tills"\ntargets = ["openvino:cpu"]\n[l4]\nabout = "ours"\ntargets = ["tensorrt"]\n'
    )
    assert expanded(["@shop", "@l4"], tmp_path) == ("openvino:cpu", "tensorrt")
    assert "rtx-ada" in fleets(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[shop\n", "is not TOML: "),
        ('[shop]\nabout = "x"\ntargets = []\n', "fleet shop: .*at least one target"),
        (
            '[shop]\nabout = "x"\ntargets = ["tensorrt:cpu"]\n',
            "fleet shop: .*names a device that tensorrt does not have",
        ),
        ('[shop]\nabot = "x"\ntargets = ["tensorrt"]\n', "fleet shop: key 'about' is missing; add it"),
        ('shop = ["tensorrt"]\n', r"fleet shop is not a table; write \[shop\], and below it about"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, content: str, message: str) -> None:
    own = tmp_path / "engines" / "fleets.toml"
    own.parent.mkdir()
    own.write_text(content)
    with pytest.raises(RecipeError, match=message):
        expanded(["@shop"], tmp_path)


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "engines" / "fleets.toml").mkdir(parents=True)
    with pytest.raises(RecipeError, match="cannot be read: is a directory"):
        expanded(["@shop"], tmp_path)


def test_an_unknown_fleet_names_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no fleet '@rtx-adda'; did you mean @rtx-ada"):
        expanded(["@rtx-adda"], tmp_path)
