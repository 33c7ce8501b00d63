from pathlib import Path

import numpy as np
import onnx
import pytest

from dnexport.calibrate.calibrate import table_from_images
from dnexport.calibrate.collect import ranges_from_batches
from dnexport.calibrate.observers import MinMax
from dnexport.calibrate.table import check_table, save_table, table_from_path
from dnexport.data.datasets import ImageSet, synthetic
from dnexport.data.images import input_from_pixels
from dnexport.errors import DataError, GraphError
from dnexport.graph.contract import model_digest, model_from_path
from dnexport.graph.insert_qdq import quantization_points
from dnexport.spec.progress import Silent
from dnexport.spec.quantization import CalibrationSet, CalibrationTable
from tests.networks import TINY_PREPROCESS, tiny_pixels


def made(graph: Path, count: int = 12) -> CalibrationTable:
    return table_from_images(graph, synthetic(count, TINY_PREPROCESS), TINY_PREPROCESS, CalibrationSet(), Silent())


def test_ranges_are_those_of_the_tensors(tiny_graph: Path) -> None:
    """Against every tensor kept, which is what calibration must not do."""
    images = input_from_pixels(tiny_pixels(10, seed=4), TINY_PREPROCESS)
    model = model_from_path(tiny_graph)
    tensors = quantization_points(model)
    found = ranges_from_batches(
        model_from_path(tiny_graph), tensors, [images[:3], images[3:]], "minmax", lambda _: None
    )

    import onnxruntime

    proto = onnx.load(tiny_graph)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(t, 1, None) for t in tensors if t != "input")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    kept = {"input": images, **dict(zip([t for t in tensors if t != "input"], session.run([t for t in tensors if t != "input"], {"input": images}), strict=True))}  # fmt: skip
    assert len(tensors) == 10
    for tensor in tensors:
        assert found[tensor].lo == pytest.approx(kept[tensor].min(), abs=1e-5)
        assert found[tensor].hi == pytest.approx(kept[tensor].max(), rel=1e-5)


def test_batch_size_and_order_do_not_matter(tiny_graph: Path) -> None:
    images = input_from_pixels(tiny_pixels(9), TINY_PREPROCESS)
    tensors = quantization_points(model_from_path(tiny_graph))

    def ranges(batches: list[np.ndarray]) -> dict[str, tuple[float, float]]:
        found = ranges_from_batches(model_from_path(tiny_graph), tensors, batches, "minmax", lambda _: None)
        return {name: (r.lo, r.hi) for name, r in found.items()}

    whole, parts = ranges([images]), ranges([images[8:], images[4:8], images[:4]])
    for name in tensors:
        assert parts[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-5)


def test_a_table_remembers_where_it_comes_from(tiny_graph: Path, tmp_path: Path) -> None:
    table = made(tiny_graph)
    assert len(set(table.image_digests)) == 12
    assert table.synthetic
    check_table(table, model_digest(model_from_path(tiny_graph)), TINY_PREPROCESS)
    save_table(table, tmp_path / "table.json")
    assert table_from_path(tmp_path / "table.json") == table


def test_a_table_of_another_graph_or_preprocessing_is_refused(tiny_graph: Path) -> None:
    table, digest = made(tiny_graph, 2), model_digest(model_from_path(tiny_graph))
    with pytest.raises(DataError, match=r"is of graph .*, this graph is 000000000000; calibrate this graph"):
        check_table(table, "0" * 64, TINY_PREPROCESS)
    with pytest.raises(DataError, match="made with other preprocessing"):
        check_table(table, digest, TINY_PREPROCESS.model_copy(update={"interpolation": "bicubic"}))


def test_nan_activations_are_refused() -> None:
    seen = MinMax()
    seen.update(np.array([0, np.nan], np.float32), np.array([1, 2], np.float32))
    seen.update(np.array([0], np.float32), np.array([1], np.float32))
    with pytest.raises(DataError, match="activation 'relu' is not finite on the calibration images"):
        seen.range("relu")


def test_an_observer_that_saw_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        MinMax().range("x")


def test_no_images_are_refused(tiny_graph: Path) -> None:
    with pytest.raises(DataError, match="the calibration set of none is empty"):
        table_from_images(tiny_graph, ImageSet("none", [], (), ()), TINY_PREPROCESS, CalibrationSet(), Silent())


def test_a_tensor_that_is_not_there_is_refused(tiny_graph: Path) -> None:
    with pytest.raises(GraphError, match="the graph has no tensor 'nowhere'"):
        ranges_from_batches(model_from_path(tiny_graph), ["nowhere"], [], "minmax", lambda _: None)


@pytest.mark.parametrize("content", ["{}", "not json"])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match="is not a calibration table"):
        table_from_path(tmp_path / "t.json")
    with pytest.raises(DataError, match="cannot be read"):
        table_from_path(tmp_path / "none.json")
