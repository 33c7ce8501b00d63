from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.passes_for import canonical_passes, passes_for
from dnexport.graph.quantize_state import QuantizeState
from dnexport.measure.parts import OTHER, part_times
from dnexport.runtimes.contract import KernelTime, SessionOptions
from dnexport.runtimes.kernel_profile import known_name
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.latency import PartTime
from dnexport.spec.metrics import PartCensus, Product
from dnexport.spec.precision import Precision
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table_of_all
from tests.needs import LOCAL


def part(name: str, **products: tuple[int, int]) -> PartCensus:
    """(multiply-adds, bytes) by node; each gives a value of its name with a v."""
    made = tuple(Product(names=(node, f"{node}v"), macs=macs, bytes=size) for node, (macs, size) in products.items())
    values = tuple(f"{node}v" for node in products)
    return PartCensus(part=name, nodes=(*products, f"{name}_norm"), values=values, products=made)


def kernel(name: str, ms: float) -> KernelTime:
    return KernelTime((name,), ms)


PARTS = (part("stem", a=(8000, 100)), part("block 1", b=(6000, 1000), c=(2000, 1000)), part("head", d=(100, 400)))


def by_part(times: tuple[PartTime, ...]) -> dict[str, PartTime]:
    return {each.part: each for each in times}


def test_kernels_count_where_their_names_are_and_nameless_ones_where_the_next_one_is() -> None:
    kernels = [
        kernel("a", 1.0),
        kernel("Multiply_7", 2.0),
        kernel("b/WithoutBiases", 4.0),
        kernel("cv_bn_nchwc", 8.0),
        kernel("ReorderOutput", 16.0),
        kernel("d_token_3", 32.0),
        kernel("Transpose", 64.0),
    ]
    times = by_part(part_times(kernels, PARTS))
    assert {name: each.ms for name, each in times.items()} == {"stem": 1, "block 1": 14, "head": 48, OTHER: 64}
    assert [each.kernels for each in times.values()] == [1, 3, 2, 1]
    assert sum(each.share for each in times.values()) == pytest.approx(1)
    assert times[OTHER].bound is times[OTHER].macs is times[OTHER].bytes is None


def test_a_kernel_of_several_nodes_counts_where_most_of_them_are() -> None:
    times = by_part(part_times([KernelTime(("a", "b", "cv"), 2.0), KernelTime(("d",), 1.0)], PARTS))
    assert times["block 1"].ms == 2.0
    assert times["stem"].ms == 0
    assert times["stem"].bound is None  # it took no time of its own


@pytest.mark.parametrize(("head_ms", "bound"), [(1.0, "memory"), (0.05, "compute")])
def test_the_side_of_the_roofline(head_ms: float, bound: str) -> None:
    """Most multiply-adds: a, 8000/ms. Most bytes: d, 400 or 8000/ms. The ridge is 20 or 1; block 1 has 4."""
    kernels = [kernel("a", 1.0), kernel("b", 5.0), kernel("c", 5.0), kernel("d", head_ms)]
    times = by_part(part_times(kernels, PARTS))
    assert times["block 1"].bound == bound
    assert times["stem"].bound == "compute"
    assert times["head"].bound == "memory"
    assert (times["block 1"].macs, times["block 1"].bytes) == (8000, 2000)


def test_the_ridge_is_that_of_the_best_kernels() -> None:
    """b alone reaches 60000/ms, d 400 bytes/ms: the ridge is 150, right of the 80 of the stem."""
    parts = (PARTS[0], part("block 1", b=(6000, 10), c=(2000, 1990)), PARTS[2])
    kernels = [kernel("a", 1.0), kernel("b", 0.1), kernel("c", 9.9), kernel("d", 1.0)]
    assert by_part(part_times(kernels, parts))["stem"].bound == "memory"
    fused = [kernel("a", 1.0), KernelTime(("b", "c"), 0.1), kernel("c", 9.9), kernel("d", 1.0)]
    assert by_part(part_times(fused, parts))["stem"].bound == "compute"  # whose time that was is not known


def test_what_only_moves_is_bound_by_memory() -> None:
    parts = (*PARTS, part("transition 1"))
    kernels = [kernel("a", 1.0), kernel("b", 1.0), kernel("d", 1.0), kernel("transition 1_norm", 1.0)]
    assert by_part(part_times(kernels, parts))["transition 1"].bound == "memory"


def test_without_parts_or_kernels_nothing_is_said() -> None:
    assert part_times([kernel("a", 1.0)], ()) == ()
    assert part_times([], PARTS) == ()


def lowered(path: Path, precision: Precision, target: Target) -> ir.Model:
    model = model_from_path(path)
    apply(canonical_passes(), model)
    if precision is Precision.INT8:
        known = table_of_all(model)
        apply((InsertQdq(known), QuantizeState(known)), model)
    apply(passes_for(precision, target), model)
    return model


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.instructions
@pytest.mark.parametrize("name", LOCAL)
def test_real_profiles_by_part(name: str, precision: Precision, tiny_graph: Path, tmp_path: Path) -> None:
    """Every convolution is found in its part; what has no name is little, and nothing is lost."""
    target = Target.parse(name)
    model = lowered(tiny_graph, precision, target)
    save_model(model, tmp_path / "model.onnx")
    census = census_from_model(model)
    runtime = runtime_for(target)
    session = runtime.load(tmp_path / "model.onnx", target, SessionOptions(runtime.execution(precision, target), 2))
    kernels = session.kernel_times(np.zeros((4, 3, 16, 16), np.float32))
    assert kernels is not None
    assert all(each.ms >= 0 for each in kernels)
    times = by_part(part_times(kernels, census.parts))
    assert set(times) - {OTHER} == {"stem", "block 1", "transition 1", "block 2", "head"}
    assert all(each.ms > 0 for each in times.values())
    assert sum(each.share for each in times.values()) == pytest.approx(1)
    assert sum(each.ms for each in times.values()) == pytest.approx(sum(each.ms for each in kernels))
    assert OTHER not in times
    for each in census.parts:
        for product in each.products:
            assert any(known_name(told, product.names) for k in kernels for told in k.names), product.names


def zeros(batch: int) -> np.ndarray:
    return np.zeros((batch, 3, 16, 16), np.float32)
