"""Triton's model repository: what it is told is parsed by its own definitions, and its warm-up runs on the engine."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import struct_pb2, text_format
from hypothesis import given
from hypothesis import strategies as st

from dnexport.bundle.triton import CONFIG, Served, Word, pbtxt, write_model
from dnexport.bundle.verify import Bundle
from dnexport.spec.precision import Execution
from dnexport.spec.preprocess import Preprocess
from tests.bundle.test_session import built
from tests.needs import LOCAL


@pytest.fixture(scope="module")
def definitions() -> ModuleType:
    """Triton's protobuf definitions: one file of its client, which needs google.protobuf only."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("tritonclient is not installed")
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("floats") / "b", batch="1..2..8", name="net-1.0")


@pytest.fixture(scope="module")
def pixel_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("pixels") / "b", batch="1..1..4", input="uint8", targets=["onnxruntime:cpu"])


def told(
    bundle: Bundle, target: str = "onnxruntime:cpu", *, recipe: dict[str, Any] | None = None, **report: Any
) -> Bundle:
    """A bundle that says otherwise; its engine is whatever that of ``onnxruntime:cpu`` is."""
    changed = bundle.manifest.model_copy(update={"recipe": bundle.manifest.recipe.model_copy(update=recipe or {})})
    engine = bundle.reports["onnxruntime:cpu"].model_copy(update={"target": target, **report})
    return dataclasses.replace(bundle, manifest=changed, reports={**bundle.reports, target: engine})


def parsed(definitions: ModuleType, bundle: Bundle, target: str, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    write_model(Served(bundle, target), folder)
    text = (folder / bundle.manifest.recipe.name / CONFIG).read_text(encoding="ascii")
    return text_format.Parse(text, definitions.ModelConfig())


def test_the_configuration_of_onnx_runtime(definitions: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    config = parsed(definitions, bundle, "onnxruntime:cpu", tmp_path)
    (taken,), (given,), (group,) = config.input, config.output, config.instance_group
    assert (config.name, config.platform, config.backend) == ("net-1.0", "onnxruntime_onnx", "")
    assert (config.default_model_filename, config.max_batch_size) == ("model.onnx", 8)
    assert (taken.name, taken.data_type, list(taken.dims)) == ("input", definitions.TYPE_FP32, [3, 32, 32])
    assert (given.name, given.data_type, list(given.dims)) == ("logits", definitions.TYPE_FP32, [10])
    assert (given.label_filename, group.count, group.kind) == ("labels.txt", 1, definitions.ModelInstanceGroup.KIND_CPU)
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert [(each.name, each.batch_size) for each in config.model_warmup] == [("golden-1", 1), ("golden-8", 8)]
    assert not config.parameters
    model = tmp_path / "net-1.0"
    assert (model / "1" / "model.onnx").read_bytes() == bundle.engine("onnxruntime:cpu").read_bytes()
    assert (model / "labels.txt").read_text().splitlines() == list(bundle.manifest.class_names)
    heading = [line for line in (model / CONFIG).read_text().splitlines() if line.startswith("#")]
    assert heading[0].startswith("# Made by dnexport of bundle net-1.0")
    assert bundle.digest in heading[1]
    assert any(f"mean {list(bundle.manifest.preprocess.mean)}" in line for line in heading)


@pytest.mark.parametrize(
    "field", ["max_batch_size", "preferred_batch_size", "input_data_file", "KIND_CPU", "TYPE_FP32"]
)
def test_the_definitions_see_a_misspelt_word(
    definitions: ModuleType, bundle: Bundle, tmp_path: Path, field: str
) -> None:
    write_model(Served(bundle, "onnxruntime:cpu"), tmp_path)
    text = (tmp_path / "net-1.0" / CONFIG).read_text()
    text_format.Parse(text, definitions.ModelConfig())
    with pytest.raises(text_format.ParseError, match=field[:-1]):
        text_format.Parse(text.replace(field, f"{field[:-1]}x"), definitions.ModelConfig())


def test_a_gpu_gets_the_plan_by_its_name(definitions: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    config = parsed(definitions, told(bundle, "tensorrt"), "tensorrt", tmp_path)
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert config.instance_group[0].kind == definitions.ModelInstanceGroup.KIND_GPU
    assert (tmp_path / "net-1.0" / "1" / "model.plan").is_file()
    config = parsed(definitions, told(bundle, "onnxruntime:cuda"), "onnxruntime:cuda", tmp_path / "cuda")
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 8)
    assert config.instance_group[0].kind == definitions.ModelInstanceGroup.KIND_GPU


def test_openvino_takes_the_batch_as_a_dimension(definitions: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    """Its backend would compile for exactly ``max_batch_size``."""
    config = parsed(
        definitions, told(bundle, "openvino:cpu", executed_precision=Execution.F32), "openvino:cpu", tmp_path
    )
    assert (config.platform, config.backend, config.max_batch_size) == ("", "openvino", 0)
    assert config.default_model_filename == "model.onnx"
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([-1, 3, 32, 32], [-1, 10])
    assert not config.HasField("dynamic_batching")
    assert [each.batch_size for each in config.model_warmup] == [1, 1]
    assert [list(each.inputs["input"].dims) for each in config.model_warmup] == [[1, 3, 32, 32], [8, 3, 32, 32]]
    assert {key: each.string_value for key, each in config.parameters.items()} == {"PERFORMANCE_HINT": "LATENCY"}
    hinted = told(bundle, "openvino:cpu", executed_precision=Execution.BF16)
    config = parsed(definitions, hinted, "openvino:cpu", tmp_path / "bf16")
    assert config.parameters["HINT_BF16"].string_value == "YES"


@pytest.mark.parametrize(
    ("batch", "target", "largest", "dims", "preferred", "warm_up"),
    [
        ("1..1..8", "tensorrt", 8, [3, 32, 32], [8], [1, 8]),
        ("1..8..8", "tensorrt", 8, [3, 32, 32], [8], [1, 8]),
        ("1", "tensorrt", 1, [3, 32, 32], None, [1]),
        ("4", "tensorrt", 0, [4, 3, 32, 32], None, [4]),
        ("2..2..8", "tensorrt", 0, [-1, 3, 32, 32], None, [2, 8]),
        ("2..2..8", "onnxruntime:cpu", 8, [3, 32, 32], [2, 8], [1, 8]),
        ("4", "openvino:cpu", 0, [-1, 3, 32, 32], None, [1, 4]),
    ],
)  # fmt: skip
def test_batches(
    definitions: ModuleType, bundle: Bundle, tmp_path: Path,
    batch: str, target: str, largest: int, dims: list[int], preferred: list[int] | None, warm_up: list[int],
) -> None:  # fmt: skip
    config = parsed(definitions, told(bundle, target, recipe={"batch": batch}), target, tmp_path)
    assert (config.max_batch_size, list(config.input[0].dims)) == (largest, dims)
    found = config.dynamic_batching.preferred_batch_size if config.HasField("dynamic_batching") else None
    assert (None if found is None else list(found)) == preferred
    assert [each.name for each in config.model_warmup] == [f"golden-{size}" for size in warm_up]


@pytest.mark.parametrize("target", LOCAL)
def test_the_engine_takes_what_is_promised_and_answers_the_warm_up_right(
    definitions: ModuleType, bundle: Bundle, pixel_bundle: Bundle, tmp_path: Path, target: str
) -> None:
    """Names, types, ranks and bytes as Triton would use them, on the very file of the repository."""
    for number, each in enumerate((bundle, pixel_bundle) if target == "onnxruntime:cpu" else (bundle,)):
        config = parsed(definitions, each, target, tmp_path / str(number))
        model = tmp_path / str(number) / each.manifest.recipe.name
        session = onnxruntime.InferenceSession(
            model / "1" / config.default_model_filename, providers=["CPUExecutionProvider"]
        )
        (taken,), (answer,) = session.get_inputs(), session.get_outputs()
        batch = [None] if config.max_batch_size else []
        types = {"tensor(float)": definitions.TYPE_FP32, "tensor(uint8)": definitions.TYPE_UINT8}
        assert (taken.name, types[taken.type]) == (config.input[0].name, config.input[0].data_type)
        assert taken.shape[1:] == [*batch, *config.input[0].dims][1:]
        assert (answer.name, answer.shape[1:]) == (config.output[0].name, [10])
        golden = each.golden().logits
        for warm_up in config.model_warmup:
            value = warm_up.inputs[taken.name]
            dtype = {definitions.TYPE_FP32: "<f4", definitions.TYPE_UINT8: "u1"}[value.data_type]
            images = np.frombuffer((model / "warmup" / value.input_data_file).read_bytes(), dtype).reshape(value.dims)
            one = images[None].repeat(warm_up.batch_size, 0) if config.max_batch_size else images
            (logits,) = session.run(None, {taken.name: one})
            expected = golden[:1].repeat(len(one), 0) if config.max_batch_size else golden[: len(one)]
            assert len(one) == int(warm_up.name.removeprefix("golden-"))
            assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_pixels_are_bytes_channels_last(definitions: ModuleType, pixel_bundle: Bundle, tmp_path: Path) -> None:
    config = parsed(definitions, pixel_bundle, "onnxruntime:cpu", tmp_path)
    assert (config.input[0].data_type, list(config.input[0].dims)) == (definitions.TYPE_UINT8, [32, 32, 3])
    assert (tmp_path / "b" / "warmup" / "golden-1.raw").stat().st_size == 32 * 32 * 3
    assert "pixels as they are, channels last" in (tmp_path / "b" / CONFIG).read_text()


def test_odd_class_names_stay_one_a_line_and_out_of_the_configuration(bundle: Bundle, tmp_path: Path) -> None:
    names = ('a "quoted" one', "two\nlines", "back\\slash", "größe", *bundle.manifest.class_names[4:])
    manifest = bundle.manifest.model_copy(update={"class_names": names, "multi_label": True})
    write_model(Served(dataclasses.replace(bundle, manifest=manifest), "onnxruntime:cpu"), tmp_path)
    lines = (tmp_path / "net-1.0" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ['a "quoted" one', "two lines", "back\\slash", "größe"]
    assert len(lines) == 10
    text = (tmp_path / "net-1.0" / CONFIG).read_text()
    assert "quoted" not in text
    assert "a sigmoid each" in text


def test_the_heading_is_comments_in_plain_letters(bundle: Bundle, tmp_path: Path) -> None:
    """Also where the preprocessing has most to say."""
    manifest = bundle.manifest.model_copy(update={"preprocess": Preprocess()})
    write_model(Served(dataclasses.replace(bundle, manifest=manifest), "onnxruntime:cpu"), tmp_path)
    text = (tmp_path / "net-1.0" / CONFIG).read_text(encoding="ascii")
    assert "shorter side to 256, centred crop 224x224" in text
    assert all(line.startswith("#") for line in text[: text.index("name:")].splitlines())


@given(st.text())
def test_any_text_survives_its_quotes(text: str) -> None:
    value = text_format.Parse(pbtxt([("string_value", text)]), struct_pb2.Value())
    assert value.string_value == text


def test_the_text_format() -> None:
    message: Any = [("a", "b"), ("c", 3), ("d", Word("E")), ("f", (1, -1)), ("g", [("h", [("i", 0)])])]
    assert pbtxt(message) == 'a: "b"\nc: 3\nd: E\nf: [1, -1]\ng {\n  h {\n    i: 0\n  }\n}\n'
