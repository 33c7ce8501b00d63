"""``--onnx``: a graph of another exporter, from file to bundle."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from dnexport.build.network import reference_factory
from dnexport.build.pipeline import build
from dnexport.cli.flags import recipe_from_flags
from dnexport.errors import ArchError, CheckpointError, GraphError, RecipeError
from dnexport.models.zoo import module_from_seed
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe, recipe_from_values
from tests.graph.test_adopt import legacy
from tests.needs import needs
from tests.networks import TINY


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return legacy(module_from_seed(TINY, (16, 16), 0), tmp_path_factory.mktemp("foreign") / "theirs.onnx", opset=9)


LOCAL = ["onnxruntime:cpu", "null:cpu"]


def recipe(file: Path, **values: object) -> Recipe:
    fields = {"name": "foreign", "onnx": str(file), "precision": "fp32", "targets": LOCAL}
    return recipe_from_values({**fields, "bench": {"restarts": 1, "rounds": 1, "block_s": 0.01}, **values}, "flags")


def test_it_goes_the_way_of_all_graphs(file: Path, tmp_path: Path) -> None:
    wanted = recipe(file, precision="int8", allow_execution="f32", calibration={"data": "synthetic", "count": 8})
    bundle = build(wanted, tmp_path / "b", Silent()).bundle
    manifest = bundle.manifest
    assert (manifest.weights.source, manifest.weights.trained, manifest.arch.family) == ("graph", True, "graph")
    assert manifest.preprocess.input_size == (16, 16)
    assert "input_size" not in manifest.assumed
    assert manifest.reference.form.startswith("ONNX Runtime fp32 on ")
    assert {report.status for report in bundle.reports.values()} == {"validated"}
    assert all(report.benchmark.over_best is None for report in bundle.reports.values())
    assert bundle.reports["null:cpu"].census.conv_macs_by_precision["int8"] > 0.9
    assert reference_factory(manifest) is None
    again = build(wanted, tmp_path / "b", Silent(), bench=False).bundle
    assert all(run.reused for run in again.manifest.stages.values())


def test_its_logits_are_those_of_the_original(file: Path, tmp_path: Path) -> None:
    bundle = build(recipe(file), tmp_path / "b", Silent(), bench=False).bundle
    import onnxruntime

    from dnexport.data.images import input_from_pixels

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    golden = bundle.golden()
    images = input_from_pixels(golden.images, bundle.manifest.preprocess)
    original = np.concatenate([session.run(None, {"data_0": image[None]})[0] for image in images])
    np.testing.assert_allclose(golden.logits, original, atol=1e-5)


@pytest.mark.instructions
@needs("openvino:cpu")
def test_openvino_takes_it(file: Path, tmp_path: Path) -> None:
    bundle = build(recipe(file, targets=["openvino:cpu"]), tmp_path / "b", Silent(), bench=False).bundle
    assert bundle.reports["openvino:cpu"].accuracy.snr_db > 60


def test_what_does_not_fit_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match="an ONNX graph has its own arch, weights and head; drop --onnx or the others"
    ):
        recipe(file, arch="densenet121")
    with pytest.raises(ArchError, match=r"theirs\.onnx has 5 classes, not 7; drop --classes"):
        build(recipe(file, classes=7), tmp_path / "b", Silent())
    with pytest.raises(GraphError, match="takes 16×16 pixels; drop --input-size"):
        build(recipe(file, preprocess={"input_size": [32, 32]}), tmp_path / "b", Silent())
    with pytest.raises(CheckpointError, match=r"graph .*none\.onnx does not exist; give an \.onnx file"):
        build(recipe(tmp_path / "none.onnx"), tmp_path / "b", Silent())
    (tmp_path / "words.onnx").write_bytes(b"not a graph")
    with pytest.raises(GraphError, match=r"words\.onnx is not a readable ONNX model"):
        build(recipe(tmp_path / "words.onnx"), tmp_path / "b", Silent())
    assert not (tmp_path / "b").exists()


def test_operators_that_nobody_knows_are_named(file: Path, tmp_path: Path) -> None:
    proto = onnx.load(file)
    next(node for node in proto.graph.node if node.op_type == "Relu").domain = "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(proto, tmp_path / "own.onnx")
    with pytest.raises(GraphError, match=r"own\.onnx has operators of com\.example"):
        build(recipe(tmp_path / "own.onnx"), tmp_path / "b", Silent())


def test_the_bundle_is_named_after_the_file(file: Path) -> None:
    assert recipe_from_flags(None, {"onnx": str(file)}, suffix="precision").name == "theirs-fp16"
