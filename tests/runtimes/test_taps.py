from pathlib import Path

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from dnexport.runtimes.onnxruntime import float_session
from dnexport.runtimes.taps import sampled, tapped


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300), max_size=5))
def test_names_are_appended_as_outputs(names: list[str]) -> None:
    """Long names need lengths of two bytes."""
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        )
    )
    parsed = onnx.load_from_string(tapped(model.SerializeToString(), names))
    assert [output.name for output in parsed.graph.output] == ["y", *names]
    del parsed.graph.output[1:]
    assert parsed == model


def test_onnx_runtime_gives_the_values_of_taps(tiny_graph: Path) -> None:
    name = next(node.output[0] for node in onnx.load(tiny_graph).graph.node if node.op_type == "Relu")
    session = float_session(tapped(tiny_graph.read_bytes(), [name]))
    logits, values = session.run(None, {"input": np.ones((2, 3, 16, 16), np.float32)})
    assert logits.shape == (2, 5)
    assert values.shape[0] == 2
    assert values.min() == 0 < values.max()


def test_samples_are_spread_over_all_channels() -> None:
    values = np.broadcast_to(np.arange(64, dtype=np.float32)[None, :, None, None], (2, 64, 32, 32))
    kept = sampled(values)
    assert kept.shape == (2, len(range(0, 64 * 32 * 32, 33)))
    assert set(kept[0]) == set(range(64))
    assert (sampled(values[:, :4, :2, :2]) == values[:, :4, :2, :2].reshape(2, -1)).all()
