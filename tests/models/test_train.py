from pathlib import Path

import numpy as np
import pytest

from dnexport.build.training import train_from_data
from dnexport.data.datasets import ImageSet, Splits
from dnexport.errors import ArchError, BuildFailed, DataError, UsageError
from dnexport.models.train import one_cycle, train
from dnexport.models.zoo import recognised_from_file
from dnexport.spec.progress import Silent
from dnexport.spec.training import TrainingRecipe
from tests.data.test_datasets import write_images
from tests.networks import TINY, TINY_PREPROCESS

QUICK = TrainingRecipe(epochs=3, batch=8, precision="fp32")


def two_colours(count: int) -> ImageSet:
    generator = np.random.default_rng(count)
    labels = tuple(index % 2 for index in range(count))
    pictures = [generator.integers(0, 60, (16, 16, 3), np.uint8) + np.uint8(190 * label) for label in labels]
    return ImageSet("two colours", pictures, labels, ("dark", "light"))


def run(path: Path, recipe: TrainingRecipe = QUICK) -> float:
    arch = TINY.model_copy(update={"classes": 2})
    splits = Splits(two_colours(64), two_colours(20))
    return train(arch, None, splits, TINY_PREPROCESS, recipe, path, Silent()).metadata.test_top1


def test_it_learns_and_the_checkpoint_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    assert run(path) == 1.0
    found = recognised_from_file(path)
    arch, metadata = found.arch, found.metadata
    assert arch == TINY.model_copy(update={"classes": 2})
    assert metadata is not None
    assert metadata.class_names == ("dark", "light")
    assert metadata.preprocess == TINY_PREPROCESS
    assert (metadata.test_top1, metadata.test_images) == (1.0, 20)


def test_a_seed_repeats_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / f"{name}.safetensors", QUICK.model_copy(update={"seed": seed, "mirror": True}))
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes()[-4096:] for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("total", [1, 2, 5, 9, 176])
def test_one_cycle_rises_and_falls(total: int) -> None:
    shares = [one_cycle(step, total) for step in range(total)]
    peak = shares.index(max(shares))
    assert max(shares) == 1
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert all(share > 0 for share in shares)


def test_a_diverging_loss_stops_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"the loss is not finite in epoch \d+, step \d+; lower --learning-rate"):
        run(tmp_path / "w.safetensors", QUICK.model_copy(update={"learning_rate": 1e30}))
    assert not list(tmp_path.iterdir())


def test_bad_data_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "one" / "cat", 9)
    write_images(tmp_path / "few" / "cat", 2)
    write_images(tmp_path / "few" / "dog", 2)
    output = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="has fewer than two classes; give at least two class folders"):
        train_from_data(str(tmp_path / "one"), "bc-40-12", QUICK, output, Silent())
    with pytest.raises(DataError, match="less than a batch of 8; give more images or a smaller --batch"):
        train_from_data(str(tmp_path / "few"), "bc-40-12", QUICK, output, Silent())
    with pytest.raises(ArchError, match="unknown arch"):
        train_from_data("digits", "bc-40-13x", QUICK, output, Silent())
    with pytest.raises(UsageError, match=r"is not a \.safetensors file"):
        train_from_data("digits", "bc-40-12", QUICK, tmp_path / "w.pth", Silent())
    assert not output.exists()
