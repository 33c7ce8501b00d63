from pathlib import Path

import pytest
import torch
from PIL import Image

from dnexport.build.training import TrainingRequest, train_from_data
from dnexport.errors import ArchError, DataError, UsageError
from dnexport.models.zoo import module_from_seed, recognised_from_file
from dnexport.spec.progress import Silent
from dnexport.spec.training import TrainingRecipe
from tests.data.test_datasets import write_images
from tests.networks import FAMILY, TINY

QUICK = TrainingRecipe(epochs=1, batch=8, precision="fp32")


def request(source: Path | str, output: Path, arch: str | None = "bc-40-12", **more: object) -> TrainingRequest:
    return TrainingRequest(str(source), arch, QUICK, output / "w.safetensors", workers=0, accelerator="cpu", **more)  # type: ignore[arg-type]


def data(root: Path, *names: str, count: int = 12) -> Path:
    for name in names:
        write_images(root / name, count)
    return root


def test_bad_data_is_refused(tmp_path: Path) -> None:
    one, few = data(tmp_path / "one", "cat"), data(tmp_path / "few", "cat", "dog", count=2)
    with pytest.raises(DataError, match="has fewer than two classes; give at least two class folders"):
        train_from_data(request(one, tmp_path), Silent())
    with pytest.raises(DataError, match="less than a batch of 8; give more images or a smaller --batch"):
        train_from_data(request(few, tmp_path), Silent())
    with pytest.raises(ArchError, match="unknown arch"):
        train_from_data(request("digits", tmp_path, "bc-40-13x"), Silent())
    with pytest.raises(UsageError, match="neither --arch nor --weights says what to train"):
        train_from_data(request("digits", tmp_path, None), Silent())
    with pytest.raises(
        UsageError, match="a new head replaces the one of a checkpoint, and there is none; add --weights"
    ):
        train_from_data(request("digits", tmp_path, new_head=True), Silent())
    pickled = TrainingRequest("digits", "bc-40-12", QUICK, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"is not a \.safetensors file"):
        train_from_data(pickled, Silent())
    assert not list(tmp_path.glob("w.*"))


def test_several_answers_an_image_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_images(tmp_path / "data" / part, 9)
        rows = "\n".join(f"{i}.png,{i % 2},1" for i in range(9))
        (tmp_path / "data" / part / "labels.csv").write_text(f"image,mass,nodule\n{rows}\n")
    with pytest.raises(
        DataError, match="answers several questions an image, and training names one class; give class folders"
    ):
        train_from_data(request(tmp_path / "data", tmp_path), Silent())


def test_a_grey_or_converted_checkpoint_is_fine_tuned(tmp_path: Path) -> None:
    root = data(tmp_path / "data", "cat", "dog")
    grey = TINY.model_copy(update={"channels": 1, "classes": 2})
    converted = FAMILY["condensenet"].model_copy(update={"stem": "cifar", "classes": 2})
    for arch in (grey, converted):
        torch.save(module_from_seed(arch, (32, 32), 3).state_dict(), tmp_path / "start.pth")
        trained = train_from_data(request(root, tmp_path, None, weights=tmp_path / "start.pth"), Silent())
        assert recognised_from_file(trained.path).arch == arch
        trained.path.unlink()


def test_pictures_of_any_mode_and_size_are_taken(tmp_path: Path) -> None:
    root = data(tmp_path / "data", "cat", "dog")
    for index, (mode, size) in enumerate(
        [("L", (40, 20)), ("RGBA", (8, 8)), ("CMYK", (33, 64)), ("I;16", (50, 50)), ("P", (16, 9))]
    ):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, size, 77).save(root / "cat" / f"odd{index}.{suffix}")
    turned = Image.new("RGB", (20, 60), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "cat" / "turned.jpg", exif=exif)
    assert (
        train_from_data(request(root, tmp_path, "densenet(blocks=1-1,k=4,stem=cifar)"), Silent()).metadata.test_images
        > 0
    )


def test_a_checkpoint_is_fine_tuned_with_a_head_for_the_data(tmp_path: Path) -> None:
    root = data(tmp_path / "data", "cat", "dog", "eel")
    weights = tmp_path / "start.pth"
    before = module_from_seed(TINY, (16, 16), 3).state_dict()
    torch.save(before, weights)
    with pytest.raises(DataError, match=r"has 3 classes and checkpoint .*start\.pth 5; add --new-head"):
        train_from_data(request(root, tmp_path, None, weights=weights), Silent())
    trained = train_from_data(request(root, tmp_path, None, weights=weights, new_head=True), Silent())
    found = recognised_from_file(trained.path)
    assert found.arch == TINY.model_copy(update={"classes": 3})
    assert found.metadata is not None
    assert found.metadata.class_names == ("cat", "dog", "eel")
    moved = (found.module.state_dict()["features.conv0.weight"] - before["features.conv0.weight"]).abs().max()
    assert 0 < moved < 0.5, "one epoch from the checkpoint, not from noise"
