from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.parts import parts_from_model
from dnexport.graph.passes_for import canonical_passes, passes_for
from dnexport.graph.quantize_state import QuantizeState
from dnexport.spec.archs import AnyArch, DenseNetArch, DpnArch
from dnexport.spec.precision import Precision
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table_of_all
from tests.graph.texts import model_from_text, random
from tests.networks import FAMILY

TARGETS = ("onnxruntime:cpu", "openvino:cpu", "tensorrt")
NETWORKS: dict[str, AnyArch] = {
    **FAMILY,
    "densenet of four blocks": DenseNetArch(blocks=(2, 4, 3, 1), k=4, init=8, classes=6),
    "cifar densenet": DenseNetArch(blocks=(2, 2, 2), k=4, bottleneck=0, theta=1.0, stem="cifar", init=8, classes=6),
    "dpn of two layers": DpnArch(
        small=True, init=8, k_r=16, groups=4, k_sec=(2, 2, 2, 2), inc_sec=(4, 4, 4, 8), classes=6
    ),
}
# Convolutions and matrix products of each part. Between two stages of a DPN lies a norm; a stage of one layer is no
# block, since it concatenates nothing with what was computed of it.
EXPECTED = {
    "densenet": "stem 1, block 1 4, transition 1 1, block 2 4, transition 2 1, block 3 4, head 1",
    "condensenet": "stem 1, block 1 4, transition 1 0, block 2 4, head 1",
    "condensenet training": "stem 1, block 1 4, transition 1 0, block 2 4, head 1",
    "peleenet": "stem 4, block 1 5, transition 1 1, block 2 10, head 2",
    "dpn": "stem 5, block 1 7, head 9",
    "dpn b": "stem 6, block 1 9, head 11",
    "densenet of four blocks": "stem 1, block 1 4, transition 1 1, block 2 8, transition 2 1, block 3 6,"
    " transition 3 1, block 4 2, head 1",
    "cifar densenet": "stem 1, block 1 2, transition 1 1, block 2 2, transition 2 1, block 3 2, head 1",
    "dpn of two layers": "stem 1, block 1 7, transition 1 0, block 2 7, transition 2 0, block 3 7, transition 3 0,"
    " block 4 7, head 1",
}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def exported(request: pytest.FixtureRequest, family_graph: Callable[[AnyArch], Path]) -> tuple[str, Path]:
    return request.param, family_graph(NETWORKS[request.param])


def lowered(path: Path, precision: Precision, target: str, pixels: Preprocess | None = None) -> ir.Model:
    model = model_from_path(path)
    apply(canonical_passes(), model)
    if precision is Precision.INT8:
        first = [node.outputs[0].name or "" for node in model.graph if node.inputs[:1] == tuple(model.graph.inputs)]
        known = table_of_all(model)
        apply((InsertQdq(known, kept=first if pixels else ()), QuantizeState(known)), model)
    apply(passes_for(precision, Target.parse(target), pixels), model)
    return model


def said(model: ir.Model) -> str:
    return ", ".join(f"{part.part} {len(part.products)}" for part in census_from_model(model).parts)


def test_parts_of_every_family_before_and_after_lowering(exported: tuple[str, Path]) -> None:
    name, path = exported
    assert said(model_from_path(path)) == EXPECTED[name]
    for precision in Precision:
        for target in TARGETS:
            assert said(lowered(path, precision, target)) == EXPECTED[name], (precision, target)
    pixels = Preprocess(input_size=(32, 32), resize=None)
    assert said(lowered(path, Precision.INT8, "openvino:cpu", pixels)) == EXPECTED[name]


def test_every_node_and_all_work_is_in_one_part(exported: tuple[str, Path]) -> None:
    name, path = exported
    written = census_from_model(model_from_path(path)).parts
    assert sum(part.macs for part in written) == NETWORKS[name].macs(32, 32)
    for precision in Precision:
        model = lowered(path, precision, "openvino:cpu")
        assert [node for part in parts_from_model(model) for node in part.nodes] == list(model.graph)
        census = census_from_model(model)
        macs = {product.names[0]: product.macs for part in census.parts for product in part.products}
        assert {name: macs[name] for name in census.conv_macs} == census.conv_macs


NESTED = """
    s = Conv<kernel_shape=[1,1]>(input, w)
    a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(s, v)  sa = Concat<axis=1>(s, a)
    b = Conv<kernel_shape=[1,1]>(sa, u)  sab = Concat<axis=1>(sa, b)
    logits = Conv<kernel_shape=[1,1]>(sab, t)
"""
WEIGHTS = {"w": random(4, 4, 1, 1), "v": random(2, 4, 3, 3), "u": random(2, 6, 1, 1), "t": random(2, 8, 1, 1)}


def test_nested_concatenations_are_one_block_and_bytes_are_those_of_the_types() -> None:
    """Keras nests: every concatenation is a cut. 64 pixels, float32."""
    model = model_from_text(NESTED, WEIGHTS, out="[batch, 2, 8, 8]")
    stem, block, head = census_from_model(model).parts
    assert (stem.part, block.part, head.part) == ("stem", "block 1", "head")
    assert block.nodes == ("node1", "node2", "node3", "node4")
    assert block.values == ("a", "sa", "b", "sab")
    assert [product.macs for product in block.products] == [64 * 2 * 4 * 9, 64 * 2 * 6]
    assert [product.bytes for product in block.products] == [4 * (64 * (4 + 2) + 72), 4 * (64 * (6 + 2) + 12)]


def test_int8_tensors_count_a_byte() -> None:
    body = """
        r = Relu(input)  q = QuantizeLinear(r, scale, zero)  d = DequantizeLinear(q, scale, zero)
        wd = DequantizeLinear(w, scale, zero)
        c = Conv<kernel_shape=[1,1]>(d, wd)  cr = Relu(c)  cq = QuantizeLinear(cr, scale, zero)
        cd = DequantizeLinear(cq, scale, zero)  x = Concat<axis=1>(d, cd)
        logits = Conv<kernel_shape=[1,1]>(x, t)
    """
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "w": np.ones((2, 4, 1, 1), np.int8),
        "t": random(2, 6, 1, 1),
    }
    model = model_from_text(body, {k: np.asarray(v) for k, v in constants.items()}, out="[batch, 2, 8, 8]")
    _, block, head = census_from_model(model).parts
    assert block.products[0].names == ("node4", "c", "cr", "cq")
    assert block.products[0].bytes == 64 * (4 + 2) + 8
    assert head.products[0].bytes == 4 * (64 * (6 + 2) + 12)


@pytest.mark.parametrize(
    "body",
    [
        "s = Conv<kernel_shape=[1,1]>(input, w)  x = Add(s, input)  logits = Conv<kernel_shape=[1,1]>(x, r)",
        "s = Conv<kernel_shape=[1,1]>(input, w)  p = Relu(input)  x = Concat<axis=1>(s, p)"
        " logits = Conv<kernel_shape=[1,1]>(x, t)",
        "s = Conv<kernel_shape=[1,1]>(input, w)  x = Concat<axis=2>(s, input)  logits = Conv<kernel_shape=[1,1]>(x, r)",
    ],
    ids=["residual", "branches", "rows"],
)
def test_a_graph_without_dense_blocks_has_no_parts(body: str) -> None:
    constants = {name: array for name, array in {**WEIGHTS, "r": random(2, 4, 1, 1)}.items() if f" {name})" in body}
    model = model_from_text(body, constants, out="[batch, 2, a, b]")
    assert census_from_model(model).parts == ()
