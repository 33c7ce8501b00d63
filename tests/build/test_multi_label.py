"""A multi-label checkpoint stays one through build, validation and prediction."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dnexport.build.pipeline import build
from dnexport.deploy.predict import predictions
from dnexport.deploy.remeasure import validate_bundle
from dnexport.errors import DataError
from dnexport.models.zoo import module_from_seed
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe
from tests.data.test_datasets import write_images
from tests.models.test_layouts import DENSENET, WRITERS


@pytest.fixture
def chexnet(tmp_path: Path) -> Path:
    _, write = WRITERS["CheXNet (arnoweng, zoogzog)"]
    torch.save(write(module_from_seed(DENSENET, (32, 32), 5).state_dict()), tmp_path / "chexnet.pth.tar")
    return tmp_path / "chexnet.pth.tar"


def recipe(checkpoint: Path, **values: object) -> Recipe:
    fields = {"precision": "fp32", "targets": ("onnxruntime:cpu",), "preprocess": {"input_size": (32, 32)}}
    return Recipe(name="chexnet", weights=str(checkpoint), **fields, **values)


def test_answers_are_sigmoids_from_build_to_prediction(chexnet: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "xrays", 10)
    built = build(recipe(chexnet, data=str(tmp_path / "xrays")), tmp_path / "bundle", Silent(), bench=False)
    assert built.bundle.manifest.multi_label
    accuracy = built.bundle.reports["onnxruntime:cpu"].accuracy
    assert (accuracy.samples, accuracy.labelled, accuracy.agreement) == (2, 0, 1.0)
    (answer,) = predictions(built.bundle, [tmp_path / "xrays" / "0.png"], None)
    with Image.open(tmp_path / "xrays" / "0.png") as image:
        assert image.size == (24, 20)
    assert sum(guess.probability for guess in answer.guesses) != pytest.approx(1, abs=0.01)
    assert all(0 < guess.probability < 1 for guess in answer.guesses)
    assert "a sigmoid of 0.5" in (tmp_path / "bundle" / "report.html").read_text()


def test_one_label_an_image_does_not_fit(chexnet: Path, tmp_path: Path) -> None:
    for index in range(14):
        write_images(tmp_path / "classes" / f"finding{index:02}", 5)
    with pytest.raises(DataError, match="has one label an image and the network answers several questions at once"):
        build(recipe(chexnet, data=str(tmp_path / "classes")), tmp_path / "bundle", Silent(), bench=False)


def answered(root: Path, names: list[str], count: int = 20) -> Path:
    write_images(root, count)
    rows = [
        f"{i}.png,{','.join(str((i * (c + 3)) % 5 // 3) if c else '' for c in range(len(names)))}" for i in range(count)
    ]
    (root / "labels.csv").write_text("\n".join([",".join(["image", *names]), *rows]) + "\n")
    return root


def test_a_table_of_answers_gives_an_auroc_a_class(chexnet: Path, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(14)]
    data = answered(tmp_path / "xrays", names)
    built = build(recipe(chexnet, data=str(data)), tmp_path / "bundle", Silent(), bench=False)
    accuracy = built.bundle.reports["onnxruntime:cpu"].accuracy
    assert (accuracy.top1, accuracy.labelled) == (None, 4)
    assert accuracy.auroc is not None
    assert accuracy.auroc[0] is None, "no answer is known"
    assert accuracy.mean_auroc is not None
    assert accuracy.mean_auroc[0] == pytest.approx(accuracy.mean_auroc[1], abs=1e-6)
    assert built.bundle.manifest.golden.labelled == 4
    page = (tmp_path / "bundle" / "report.html").read_text()
    assert "Mean AUROC" in page
    assert "AUROC, class 13" in page
    found = validate_bundle(built.bundle, None, None, None, Silent())["onnxruntime:cpu"].accuracy
    assert found.auroc == accuracy.auroc


def test_a_network_that_names_one_class_takes_no_table_of_answers(tmp_path: Path) -> None:
    data = answered(tmp_path / "xrays", [f"class {index}" for index in range(10)])
    chosen = Recipe(
        name="r",
        arch="densenet-bc-40-12",
        weights="random",
        data=str(data),
        precision="fp32",
        targets=("onnxruntime:cpu",),
    )
    with pytest.raises(DataError, match="answers several questions an image and the network names one class"):
        build(chosen, tmp_path / "bundle", Silent(), bench=False)
