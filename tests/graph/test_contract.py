from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dnexport.build.network import Source
from dnexport.errors import GraphError
from dnexport.graph.contract import PassResult, apply, external_files, model_from_path
from tests.graph.texts import model_from_text, random


def relu() -> ir.Model:
    body = "a = Conv<kernel_shape=[1,1]>(input, w) logits = Relu(a)"
    return model_from_text(body, {"w": random(2, 4, 1, 1)}, out="[batch, 2, 8, 8]")


class Idle:
    name = "idle"

    def __call__(self, model: ir.Model) -> PassResult:
        return PassResult(model, False, ("nothing to do",))


class Boaster(Idle):
    name = "boaster"

    def __call__(self, model: ir.Model) -> PassResult:
        return PassResult(model, True)


class Sneak(Idle):
    name = "sneak"

    def __call__(self, model: ir.Model) -> PassResult:
        model.graph.initializers["w"].const_value = ir.tensor(np.zeros((2, 4, 1, 1), np.float32), name="w")
        return PassResult(model, False)


class Renamer(Idle):
    name = "renamer"

    def __call__(self, model: ir.Model) -> PassResult:
        model.graph.outputs[0].name = "scores"
        return PassResult(model, True)


class Copier(Idle):
    name = "copier"

    def __call__(self, model: ir.Model) -> PassResult:
        return PassResult(relu(), False)


class Breaker(Idle):
    name = "breaker"

    def __call__(self, model: ir.Model) -> PassResult:
        next(iter(model.graph)).op_type = "Convolution"
        return PassResult(model, True)


def test_reasons_are_kept() -> None:
    (applied,) = apply((Idle(),), relu())
    assert (applied.name, applied.modified, applied.reasons) == ("idle", False, ("nothing to do",))


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (Boaster(), r"pass 'boaster' after \[idle\] claims modified, but the graph is equal"),
        (Sneak(), r"pass 'sneak' after \[idle\] claims unmodified, but the graph is different"),
        (Renamer(), r"changed the interface from .*logits.* to .*scores"),
        (Copier(), "returned another model than it was given"),
        (Breaker(), "left an invalid graph"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_frame_does_not_take_a_passes_word(liar: Idle, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        apply((Idle(), liar), relu())


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage"])
def test_files_that_are_no_graphs_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(
        GraphError, match=r"m\.onnx (is not a readable ONNX model|holds no ONNX graph); export it again"
    ):
        model_from_path(tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="does not exist"):
        model_from_path(tmp_path / "none.onnx")


def test_a_graph_without_the_file_of_its_weights_names_it(tiny_graph: Path, tmp_path: Path) -> None:
    whole = model_from_path(tiny_graph).graph.initializers
    path = tmp_path / "model.onnx"
    onnx.save_model(onnx.load(tiny_graph), path, save_as_external_data=True, location="model.data", size_threshold=0)
    found = model_from_path(path).graph.initializers
    assert all(np.array_equal(found[name].const_value.numpy(), whole[name].const_value.numpy()) for name in whole)
    (tmp_path / "model.data").unlink()
    with pytest.raises(GraphError, match=r"keeps weights in model\.data, which is not beside it; copy that file too"):
        model_from_path(path)


def test_the_weights_beside_a_graph_belong_to_what_it_is(tiny_graph: Path, tmp_path: Path) -> None:
    """Exported again after more training, the ONNX file is the same, and the one with its weights is not."""
    path = tmp_path / "model.onnx"
    onnx.save_model(onnx.load(tiny_graph), path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert external_files(path) == [tmp_path / "model.data"]
    assert external_files(tiny_graph) == []
    source = Source("graph", path)
    before = source.digest()
    content = bytearray((tmp_path / "model.data").read_bytes())
    content[0] ^= 1
    (tmp_path / "model.data").write_bytes(content)
    assert source.digest() != before
