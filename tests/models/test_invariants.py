"""What the exported graph of a DenseNet must hold, derived from its block table."""

from pathlib import Path

import onnx
import pytest

from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path
from dnexport.graph.passes_for import canonical_passes
from dnexport.models.export import export_onnx
from dnexport.models.zoo import module_from_seed
from dnexport.spec.archs import NAMED, DenseNetArch
from dnexport.spec.preprocess import Preprocess

COMBINATIONS = [
    DenseNetArch(blocks=(2, 3), k=4, stem=stem, init=8, bottleneck=bottleneck, classes=3)
    for stem in ("imagenet", "cifar")
    for bottleneck in (0, 4)
]


def expected(arch: DenseNetArch) -> dict[str, int]:
    """Convolutions: stem, one or two a layer, one a transition. Norms that stay: norm1 of each layer, one a transition
    and norm5, for they follow a concatenation (or, first in the net, a pooling or a convolution that is read twice);
    norm0 and every norm2 fold. A concatenation for each layer but the first of a block, and one after each block."""
    layers, transitions = sum(arch.blocks), len(arch.blocks) - 1
    return {
        "Conv": 1 + layers * (2 if arch.bottleneck else 1) + transitions,
        "BatchNormalization": layers + transitions + 1,
        "Concat": layers,
        "AveragePool": transitions,
        "MaxPool": 1 if arch.stem == "imagenet" else 0,
    }


@pytest.mark.parametrize("arch", [*COMBINATIONS, NAMED["densenet121"].arch], ids=str)
def test_the_export_holds_what_the_block_table_says(arch: DenseNetArch, tmp_path: Path) -> None:
    preprocess = Preprocess(input_size=(arch.smallest_input, arch.smallest_input), resize=None)
    images = input_from_pixels(synthetic(2, preprocess).pixels(preprocess), preprocess)
    export_onnx(module_from_seed(arch, preprocess.input_size, 0), images, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    model = model_from_path(tmp_path / "model.onnx")
    apply(canonical_passes(), model)
    found = census_from_model(model).operators
    assert {name: found.get(name, 0) for name in expected(arch)} == expected(arch)
