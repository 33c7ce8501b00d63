"""The network in benchmarks/cifar10 is what its log and its metadata say."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnexport.data.images import input_from_pixels
from dnexport.models.zoo import recognised_from_file
from dnexport.spec.archs import NAMED
from dnexport.spec.training import TRAINING_RECIPES
from tests.conftest import SHARED

NAME = "densenet-bc-40-12"
EVERY = 16


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "benchmarks" / "cifar10"


def test_it_says_how_it_was_trained(folder: Path) -> None:
    metadata = recognised_from_file(folder / f"{NAME}.safetensors").metadata
    assert metadata is not None
    assert metadata.arch == NAMED[NAME].arch
    assert metadata.training == TRAINING_RECIPES["short"].model_copy(update={"test_every": 5})
    rows = [json.loads(line) for line in (folder / f"{NAME}.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 26))
    assert metadata.test_top1 == rows[-1]["test_top1"]
    assert metadata.test_images == 10_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 << 20


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this checkout")
def test_it_names_what_it_says(folder: Path) -> None:
    found = recognised_from_file(folder / f"{NAME}.safetensors")
    metadata = found.metadata
    assert metadata is not None
    pixels, labels, seen = [], [], 0
    with tarfile.open(SHARED / "data" / "cifar10-jpeg.tar.gz") as archive:
        for member in archive:
            part, _, rest = member.name.removeprefix("./").partition("/")
            if part != "test" or not member.isfile():
                continue
            seen += 1
            if seen % EVERY == 0:
                content = archive.extractfile(member)
                assert content is not None
                pixels.append(np.asarray(Image.open(content).convert("RGB")))
                labels.append(metadata.class_names.index(rest.split("/")[0]))
    x = torch.from_numpy(input_from_pixels(np.stack(pixels), metadata.preprocess))
    with torch.inference_mode():
        named = torch.cat([found.module(part).argmax(1) for part in x.split(100)]).numpy()
    assert len(set(labels)) == 10
    # 625 images: three standard errors are 4 points.
    assert (named == np.array(labels)).mean() == pytest.approx(metadata.test_top1, abs=0.04)
