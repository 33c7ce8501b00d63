from pathlib import Path

import numpy as np
import onnx
import pytest

from dnexport.calibrate.calibrate import table_from_images
from dnexport.calibrate.collect import ranges_from_batches
from dnexport.calibrate.table import check_table, save_table, table_from_path
from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.data.imageset import ImageSet
from dnexport.errors import DataError, GraphError
from dnexport.graph.contract import model_digest, model_from_path
from dnexport.graph.dense_blocks import states
from dnexport.graph.insert_qdq import quantization_points
from dnexport.spec.progress import Silent
from dnexport.spec.quantization import CalibrationSet, CalibrationTable, Convergence, ObserverName
from tests.networks import TINY_PREPROCESS, tiny_pixels


def made(graph: Path, count: int = 12) -> CalibrationTable:
    return table_from_images(graph, synthetic(count, TINY_PREPROCESS), TINY_PREPROCESS, CalibrationSet(), Silent())


def test_ranges_are_those_of_the_tensors(tiny_graph: Path) -> None:
    """Against every tensor kept, which is what calibration must not do."""
    images = input_from_pixels(tiny_pixels(10, seed=4), TINY_PREPROCESS)
    model = model_from_path(tiny_graph)
    tensors = quantization_points(model)
    held = states(model)
    seen = ranges_from_batches(model_from_path(tiny_graph), tensors, [images[:3], images[3:]], lambda _: None, held)
    found = {tensor: observer.range(tensor) for tensor, observer in seen.ranges.items()}

    import onnxruntime

    proto = onnx.load(tiny_graph)
    tensors = tuple(dict.fromkeys((*tensors, *held)))
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(t, 1, None) for t in tensors if t != "input")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    kept = {"input": images, **dict(zip([t for t in tensors if t != "input"], session.run([t for t in tensors if t != "input"], {"input": images}), strict=True))}  # fmt: skip
    assert (len(found), len(held)) == (10, 6)
    for tensor, each in found.items():
        assert each.lo == pytest.approx(kept[tensor].min(), abs=1e-5)
        assert each.hi == pytest.approx(kept[tensor].max(), rel=1e-5)
    for state in held:
        least, greatest = seen.channels[state]
        assert least == pytest.approx(kept[state].min(axis=(0, 2, 3)), rel=1e-5, abs=1e-6)
        assert greatest == pytest.approx(kept[state].max(axis=(0, 2, 3)), rel=1e-5, abs=1e-6)


def test_batch_size_and_order_do_not_matter(tiny_graph: Path) -> None:
    images = input_from_pixels(tiny_pixels(9), TINY_PREPROCESS)
    tensors = quantization_points(model_from_path(tiny_graph))

    def ranges(batches: list[np.ndarray]) -> dict[str, tuple[float, float]]:
        found = ranges_from_batches(model_from_path(tiny_graph), tensors, batches, lambda _: None).ranges
        return {name: (o.range(name).lo, o.range(name).hi) for name, o in found.items()}

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


def test_no_images_are_refused(tiny_graph: Path) -> None:
    with pytest.raises(DataError, match="the calibration set of none is empty"):
        table_from_images(tiny_graph, ImageSet("none", [], (), ()), TINY_PREPROCESS, CalibrationSet(), Silent())


def test_a_tensor_that_is_not_there_is_refused(tiny_graph: Path) -> None:
    with pytest.raises(GraphError, match="the graph has no tensor 'nowhere'"):
        ranges_from_batches(model_from_path(tiny_graph), ["nowhere"], [], lambda _: None)


@pytest.mark.parametrize("content", ["{}", "not json"])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match="is not a calibration table"):
        table_from_path(tmp_path / "t.json")
    with pytest.raises(DataError, match="cannot be read"):
        table_from_path(tmp_path / "none.json")


@pytest.mark.parametrize("observer", ["percentile", "entropy", "mse"])
def test_other_observers_narrow_the_ranges(observer: ObserverName, tiny_graph: Path) -> None:
    images = synthetic(12, TINY_PREPROCESS)
    how = CalibrationSet(observer=observer, percentile=95)
    wide, found = (
        table_from_images(tiny_graph, images, TINY_PREPROCESS, chosen, Silent()) for chosen in (CalibrationSet(), how)
    )
    assert set(found.ranges) == set(wide.ranges)
    assert all(found.ranges[t].scale <= wide.ranges[t].scale * 1.001 for t in wide.ranges)
    if observer != "entropy":  # on so few values it keeps all; tests/calibrate/test_observers.py sees it cut
        assert any(found.ranges[t].scale < wide.ranges[t].scale * 0.99 for t in wide.ranges)


def test_a_table_knows_its_classes_and_when_it_settled(tiny_graph: Path) -> None:
    plain = synthetic(40, TINY_PREPROCESS)
    images = ImageSet("two", plain.pictures, tuple(i % 4 // 3 for i in range(40)), ("most", "some", "none"))
    table = table_from_images(tiny_graph, images, TINY_PREPROCESS, CalibrationSet(), Silent())
    assert table.coverage == {"most": 30, "some": 10, "none": 0}
    counts = [point.images for point in table.convergence]
    moves = [point.largest_move for point in table.convergence]
    assert (counts[0], counts[-1], moves[-1]) == (1, 40, 0)
    assert moves == sorted(moves, reverse=True)
    assert moves[0] > 0.01
    settled = table.settled()
    assert settled is None or moves[counts.index(settled)] < 0.01


def test_settled_is_the_first_count_after_the_last_large_move() -> None:
    def table(*moves: float) -> int | None:
        points = tuple(Convergence(images=10 * (i + 1), largest_move=move) for i, move in enumerate(moves))
        return CalibrationTable(
            calibration_set=CalibrationSet(), image_digests=(), graph_digest="", preprocess_digest="", synthetic=True,
            convergence=points, ranges={},
        ).settled()  # fmt: skip

    assert table(0.5, 0.2, 0.005, 0) == 30
    assert table(0.5, 0.2, 0.05, 0) is None
    assert table(0.001, 0) == 10


def test_a_table_says_why_it_may_mean_little(tiny_graph: Path) -> None:
    def doubts(pictures: list[np.ndarray], classes: tuple[str, ...] = ()) -> tuple[str, ...]:
        labels = (0,) * len(pictures) if classes else (-1,) * len(pictures)
        images = ImageSet("few", pictures, labels, classes)
        return table_from_images(tiny_graph, images, TINY_PREPROCESS, CalibrationSet(), Silent()).doubts()

    first, second = tiny_pixels(2)
    grey = np.full_like(first, 117)
    assert doubts([first, second]) == ()
    assert doubts([first]) == ("INT8 is calibrated on a single image: give more with --calibration-images",)
    assert doubts([first, first, second]) == ("only 2 of the 3 calibration images are different pictures",)
    assert doubts([first, second], ("cat", "dog", "eel")) == ("no image of 2 of 3 classes was calibrated on: dog, eel",)
    assert "1 of the 3 calibration images are of one colour each" in doubts([first, grey, second])
