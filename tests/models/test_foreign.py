"""Networks of the user's own, from a function to a bundle."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnexport.build.network import network_from_source, reference_factory, source_from_recipe
from dnexport.build.pipeline import build
from dnexport.errors import ArchError, CheckpointError, RecipeError
from dnexport.models.foreign import arch_from_factory, module_from_factory, state_digest
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe, recipe_from_values

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=7, channels=1):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))

class Boxes(Net):
    def forward(self, x):
        return self.stem(x)

def broken():
    raise OSError("no licence file")

def words():
    return "a network"

answer = 42
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    return name


def recipe(model: str, **values: object) -> Recipe:
    fields = {"precision": "fp32", "targets": ("onnxruntime:cpu",), "preprocess": {"input_size": (24, 24)}}
    return recipe_from_values({"name": "own", "model": model, **fields, **values}, "flags")


def test_its_ends_are_found_by_running_it(package: str) -> None:
    module = module_from_factory(f"{package}:Net")
    arch, _ = arch_from_factory(f"{package}:Net", module, (24, 24))
    assert (arch.channels, arch.classes, arch.parameters) == (1, 7, 8 * 9 + 16 + 8 * 7 + 7)
    assert torch.equal(module_from_factory(f"{package}:Net").head.weight, module.head.weight)
    assert not torch.equal(module_from_factory(f"{package}:Net", seed=1).head.weight, module.head.weight)


def test_code_in_another_file_shows_in_what_it_answers(package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}_more.py").write_text(
        f"import {package}, json, pathlib\nclass Scaled({package}.Net):\n    pass\n"
        "def make():\n    net = Scaled()\n    net.stem[2] = __import__('torch').nn.Hardtanh(0, json.loads(pathlib.Path('limit').read_text()))\n    return net\n"
    )
    found = []
    for limit in ("0.01", "0.02", "0.01"):
        (tmp_path / "limit").write_text(limit)
        chosen = recipe(f"{package}_more:make")
        network = network_from_source(chosen, source_from_recipe(chosen, Silent()))
        found.append((network.arch.code, network.answers))
    assert found[0] == found[2]
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_weights_and_code_are_its_identity(package: str, tmp_path: Path) -> None:
    def identity() -> str:
        chosen = recipe(f"{package}:Net")
        return network_from_source(chosen, source_from_recipe(chosen, Silent())).arch.content_digest()

    first = identity()
    assert identity() == first
    (tmp_path / f"{package}.py").write_text(CODE + "\n# another version\n")
    assert identity() != first
    a, b = (module_from_factory(f"{package}:Net", seed=seed) for seed in (0, 1))
    assert state_digest(a) != state_digest(b)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"cannot be imported: AttributeError: .*none.*; write --model package\.module:function"),
        ("broken", "failed: OSError: no licence file; make it callable without arguments"),
        ("words", "gives a str, not a torch.nn.Module; name a function that returns the module"),
        ("answer", "is a int; name a function that returns the module"),
        ("Boxes", r"gives a tensor of \[2, 8, 24, 24\] for 2 images, not \[2, classes\]"),
    ],
)
def test_what_is_no_network_is_refused(package: str, name: str, message: str) -> None:
    chosen = recipe(f"{package}:{name}")
    with pytest.raises(ArchError, match=message):
        network_from_source(chosen, source_from_recipe(chosen, Silent()))


def test_contradictions_are_refused(package: str) -> None:
    with pytest.raises(RecipeError, match="a model has no arch, no new head and no pretrained weights; drop one"):
        recipe(f"{package}:Net", arch="densenet121")
    with pytest.raises(RecipeError, match="key 'model' is 'nets'"):
        recipe("nets")
    chosen = recipe(f"{package}:Net", classes=9)
    with pytest.raises(ArchError, match="has 7 classes, not 9; drop --classes"):
        network_from_source(chosen, source_from_recipe(chosen, Silent()))


def test_weights_fill_it_strictly_under_its_own_names(package: str, tmp_path: Path) -> None:
    state = module_from_factory(f"{package}:Net", seed=5).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pt")
    loaded = module_from_factory(f"{package}:Net", weights=tmp_path / "w.pt").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    torch.save({k: v for k, v in state.items() if "head" not in k}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=r"lacks head\.bias, head\.weight"):
        module_from_factory(f"{package}:Net", weights=tmp_path / "less.pt")


def test_it_builds_measures_and_predicts(
    package: str, tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    built = build(
        recipe(f"{package}:Net", bench={"restarts": 1, "rounds": 1, "block_s": 0.01}), tmp_path / "bundle", Silent()
    )
    manifest = built.bundle.manifest
    assert (manifest.weights.source, manifest.weights.trained) == ("factory", True)
    assert built.bundle.reports["onnxruntime:cpu"].benchmark is not None
    again = run_cli("bench", str(tmp_path / "bundle"), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "×" in again.stdout, "beside the PyTorch module"
    file = tmp_path / "w.pt"
    for seed in (5, 6):  # trained further, with the same code
        torch.save(module_from_factory(f"{package}:Net", seed=seed).state_dict(), file)
        chosen = recipe(f"{package}:Net", weights=str(file))
        source = source_from_recipe(chosen, Silent())
        network = network_from_source(chosen, source)
        if seed == 5:
            update = {"recipe": chosen, "arch": network.arch, "weights": network.weights(source)}
            manifest = manifest.model_copy(update=update)
            assert reference_factory(manifest) is not None
    assert reference_factory(manifest) is None
