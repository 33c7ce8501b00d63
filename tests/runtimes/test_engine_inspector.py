"""The JSON is shaped as TensorRT prints it with detailed verbosity; it was written here, not recorded on a GPU."""

import json
from typing import Any

import pytest

from dnexport.runtimes.engine_inspector import (
    executed_from_layers,
    layers_from_inspector,
    nodes_by_layer,
    nodes_in_name,
)
from dnexport.spec.precision import Execution

MACS = {"node_Conv_1": 100, "node_Conv_2": 300}
ENDS = "input input float32, output logits float32"
CHANNELS_LAST_INT8 = "Thirty-two wide channel vectorized row major Int8 format"
CHANNELS_LAST_HALF = "Channel major FP16 format where channel % 8 == 0"


def tensor(name: str, form: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [1, 8, 16, 16], "Format/Datatype": form}


def convolution(name: str, form: str, weights: str | None = None, **more: Any) -> dict[str, Any]:
    entry = {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("in", form)],
        "Outputs": [tensor("out", form)],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Groups": 1,
        "TacticName": "sm80_xmma_fprop_implicit_gemm_tilesize128x128x32",
        "Metadata": "",
        **more,
    }
    return entry | ({"Weights": {"Type": weights, "Count": 576}} if weights else {})


def reformat(name: str, source: str, to: str) -> dict[str, Any]:
    return {"Name": name, "LayerType": "Reformat", "Inputs": [tensor("a", source)], "Outputs": [tensor("b", to)]}


def executed(layers: list[Any], macs: dict[str, int] = MACS, asked: Execution = Execution.F16) -> Any:
    text = json.dumps({"Layers": layers, "Bindings": ["input", "logits"]})
    return executed_from_layers(layers_from_inspector(text), macs, asked, ENDS)


def test_fused_layers_are_matched_by_the_names_of_their_nodes() -> None:
    found = executed(
        [
            reformat("Reformatting CopyNode for Input Tensor 0 to node_Conv_1 + relu", "Row major linear FP32", "Half"),
            convolution("node_Conv_1 + relu", CHANNELS_LAST_HALF, "Half"),
            convolution("node_Conv_2 + PWN(node_relu_7)", "Half", "Half"),
            {"Name": "node_Concat_3", "LayerType": "NoOp", "Inputs": [], "Outputs": []},
        ]
    )
    assert found.execution is Execution.F16
    assert found.proof.source == "engine inspector"
    assert found.proof.conv_work == {"f16": 1.0}
    assert found.proof.reformats == 1
    assert found.proof.statement == f"types of the 2 convolutions in TensorRT's engine inspector: 2 f16; {ENDS}"


def test_work_is_shared_by_multiply_adds_and_int8_has_a_body() -> None:
    found = executed(
        [
            convolution("node_Conv_1 + relu", "Half", "Half"),
            convolution(
                "w + w_quantize + node_Conv_2 + relu", CHANNELS_LAST_INT8, "Int8", Outputs=[tensor("o", "Half")]
            ),
        ],
        asked=Execution.INT8_F16,
    )
    assert found.execution is Execution.INT8_F16
    assert found.proof.conv_work == {"f16": 0.25, "int8": 0.75}


def test_a_quantized_graph_that_runs_in_float_is_said_to() -> None:
    found = executed(
        [convolution("node_Conv_1", "Float", "Float"), convolution("node_Conv_2", "Float", "Float")],
        asked=Execution.INT8_F16,
    )
    assert found.execution is Execution.F32
    assert found.proof.statement.endswith("the graph is quantized, and most of the work is not int8")


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (convolution("node_Conv_1", "N/A due to dynamic shapes", "Half"), "f16"),
        (convolution("node_Conv_1", "N/A due to dynamic shapes", TacticName="sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw"), "int8"),
        (convolution("node_Conv_1", "N/A due to dynamic shapes", TacticName="sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc"), "f16"),
        (convolution("node_Conv_1", "Float", "Float", TacticName="sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc"), "tf32"),
        (convolution("node_Conv_1", "BFloat16", "BFloat16"), "bf16"),
        (convolution("node_Conv_1", "Half", "Int8"), "f16"),  # only the weights are
        (convolution("node_Conv_1", CHANNELS_LAST_INT8, "Half"), "f16"),
        (convolution("node_Conv_1", "N/A due to dynamic shapes"), "unknown"),
    ],
)  # fmt: skip
def test_the_kind_of_a_kernel(layer: dict[str, Any], kind: str) -> None:
    (found,) = layers_from_inspector(json.dumps({"Layers": [layer]}))
    assert found.kind == kind


def split(layer: dict[str, Any], field: str, types: str, form: str = "Row major linear format") -> dict[str, Any]:
    """The layer as TensorRT 11 may print it: format and data type of its tensors are fields of their own."""
    tensors = [{"Name": "t", "Location": "Device", "Dimensions": [1, 8, 16, 16], field: types, "Format": form}]
    return layer | {"Inputs": tensors, "Outputs": tensors}


@pytest.mark.parametrize("field", ["Datatype", "DataType", "Data Type"])
@pytest.mark.parametrize(("types", "kind"), [("Half", "f16"), ("Int8", "int8"), ("BFloat16", "bf16"), ("Float", "f32")])
def test_format_and_data_type_may_be_fields_of_their_own(field: str, types: str, kind: str) -> None:
    layer = split(convolution("node_Conv_1", ""), field, types)
    (found,) = layers_from_inspector(json.dumps({"Layers": [layer]}))
    assert (found.kind, found.output) == (kind, kind)


def test_the_data_type_goes_before_the_format_and_the_format_is_read_without_one() -> None:
    """TensorRT 10 calls the format of INT64 tensors one of INT8 (NVIDIA/TensorRT issue 4048)."""
    layer = convolution("node_Conv_1", "")
    of_int64 = split(layer, "Datatype", "Int64", "Row major linear INT8 format (kLINEAR)")
    only_format = split(layer, "Format", "", CHANNELS_LAST_HALF)
    open_shape = split(layer, "Datatype", "Half", "Format not available due to dynamic shapes")
    found = layers_from_inspector(json.dumps({"Layers": [of_int64, only_format, open_shape]}))
    assert [each.kind for each in found] == ["unknown", "f16", "f16"]


def test_a_tensor_that_tells_neither_is_said_to_be_unknown() -> None:
    silent = split(convolution("node_Conv_1", ""), "Datatype", "", "")
    found = executed([silent, convolution("node_Conv_2", "Half", "Half")])
    assert found.proof.conv_work == {"f16": 0.75, "unknown": 0.25}
    assert "2 convolutions in TensorRT's engine inspector: 1 unknown, 1 f16" in found.proof.statement
    assert "tells nothing of its kernels" in executed([silent]).proof.statement


def test_metadata_names_what_a_fused_kernel_computes() -> None:
    """A kernel beside the convolution may carry its name too; the separators are bare characters of ASCII."""
    before = {
        "Name": "__myl_MulAdd_myl0_1",
        "LayerType": "kgen",
        "Inputs": [tensor("a", "Half")],
        "Outputs": [tensor("b", "Int8")],
        "Metadata": "[ONNX Layer: node_Conv_1]\x1f[ONNX Layer: node_Conv_1_input_QuantizeLinear]",
    }
    kernel = convolution(
        "__myl_Conv_myl0_2", "Int8", "Int8", Metadata="[ONNX Layer: node_Conv_1 | doc]\x1e[ONNX Layer: relu]"
    )
    text = json.dumps({"Layers": [before, kernel]}).replace("\\u001f", "\x1f").replace("\\u001e", "\x1e")
    found = executed_from_layers(layers_from_inspector(text), {"node_Conv_1": 5}, Execution.INT8_F16, ENDS)
    assert found.proof.conv_work == {"int8": 1.0}
    assert found.execution is Execution.INT8_F16


def test_a_convolution_that_no_layer_names_is_unknown_and_a_nameless_one_counts_least() -> None:
    found = executed([convolution("node_Conv_2", "Half", "Half"), convolution("padded", "Float", "Float")])
    assert found.proof.conv_work == {"f16": 0.6, "f32": 0.2, "unknown": 0.2}
    assert found.proof.statement.endswith("; no layer names the other 1")
    nameless = executed(
        [convolution("a", "Half", "Half"), convolution("b", "Float", "Float"), convolution("c", "Half", "Half")]
    )
    assert nameless.proof.conv_work == pytest.approx({"f16": 2 / 3, "f32": 1 / 3})


@pytest.mark.parametrize("text", ["", "not JSON", "{}", "[]", '{"Layers": ["node_Conv_1 + relu", "node_Conv_2"]}'])
def test_a_plan_that_tells_nothing_proves_nothing(text: str) -> None:
    """RTX plans, and those built without detailed verbosity."""
    found = executed_from_layers(layers_from_inspector(text), MACS, Execution.INT8_F16, ENDS)
    assert found.execution is Execution.INT8_F16
    assert found.proof.conv_work == {}
    assert found.proof.reformats is None
    assert found.proof.statement == f"the plan tells nothing of its kernels ({ENDS}); which of them run is unproven"


def test_the_nodes_of_a_layer_are_in_its_name_and_in_its_metadata() -> None:
    fused = convolution("__myl_ConvRelu_7", CHANNELS_LAST_HALF, Metadata="[ONNX Layer: node_Conv_1][ONNX Layer: relu]")
    text = json.dumps({"Layers": [fused, convolution("node_Conv_2 + PWN(relu_2)", CHANNELS_LAST_HALF)]})
    assert nodes_by_layer(text) == {
        "__myl_ConvRelu_7": ("__myl_ConvRelu_7", "node_Conv_1", "relu"),
        "node_Conv_2 + PWN(relu_2)": ("node_Conv_2", "relu_2"),
    }
    assert nodes_by_layer("no JSON") == {}
    assert nodes_in_name("a + b || c") == ("a", "b", "c")
