"""Adopt a graph that another exporter wrote: the same network, in the form that the passes know.

One float input ``input`` [batch, channels, height, width], one output ``logits`` [batch, classes], opset 19, a symbolic
batch. Constants become initializers and are folded; Identity, Dropout and one-input Concat go. An affine a·x + b of
constants a channel, as Caffe's *Scale* or an unfolded norm leaves it, becomes the BatchNormalization that it is:

    a·(γ·(x − μ)/√(σ²+ε) + β) + b   =   (a·γ)·(x − μ)/√(σ²+ε) + (a·β + b)          behind a norm
    a·x + b                         =   a·(x − 0)/√(1 + 0) + b                      elsewhere
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from dnexport.errors import GraphError
from dnexport.graph.contract import INPUT, model_from_path
from dnexport.graph.values import add_initializer, constant_array, name_of, replace_constant

OUTPUT = "logits"
OPSET, _OLDEST, _NEWEST = 19, 9, 21
_IR_VERSION = 10
_SMALLEST_RANK = 4


@dataclass(frozen=True)
class Adopted:
    """A graph in the form that the passes know.

    Attributes:
        model: the graph.
        channels: planes of its input.
        classes: of its output.
        input_size: height and width, where the graph fixes them.
        parameters: numbers in its floating-point constants.
    """

    model: ir.Model
    channels: int
    classes: int
    input_size: tuple[int, int] | None
    parameters: int


def adopted(path: Path, wanted_size: tuple[int, int] | None = None) -> Adopted:
    """Read a foreign graph.

    Args:
        path: of the ONNX file.
        wanted_size: height and width of the input, where the graph leaves them open; 224 × 224 where nobody says.

    Raises:
        GraphError: unreadable, an opset that is too old or too new, already quantized, with operators of other domains,
            or with other ends than one float image batch and one vector of logits.
    """
    proto = ir.to_proto(model_from_path(path))
    opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
    if not _OLDEST <= opset <= _NEWEST:
        raise GraphError(
            f"graph {path} is of opset {opset}, and {_OLDEST} to {_NEWEST} are known", f"export it with opset {OPSET}"
        )
    if any(node.op_type in ("QuantizeLinear", "QLinearConv", "ConvInteger") for node in proto.graph.node):
        raise GraphError(f"graph {path} is quantized already", "give the float graph that it was made from")
    if strange := sorted({node.domain for node in proto.graph.node} - {"", "ai.onnx"}):
        raise GraphError(f"graph {path} has operators of {strange[0]}", "export it with ONNX's own operators only")
    channels, fixed = _input(proto, path)
    if fixed and wanted_size not in (None, fixed):
        raise GraphError(f"graph {path} takes {fixed[0]}×{fixed[1]} pixels", "drop --input-size")
    size = fixed or wanted_size or (224, 224)
    model = ir.from_proto(_converted(_with_free_batch(proto, channels, size), opset, path))
    _tidy(model)
    _rename(model, path)
    inferred = _inferred(model, path)
    classes = _classes(inferred, path)
    explicit_pads(inferred, path)
    affine_to_norm(inferred)
    inferred = _inferred(inferred, path)
    arrays = (constant_array(value) for value in inferred.graph.initializers.values())
    parameters = sum(array.size for array in arrays if array is not None and array.dtype == np.float32)
    return Adopted(inferred, channels, classes, fixed, parameters)


def affine_to_norm(model: ir.Model) -> None:
    """Turn Mul and Add of constants a channel into batch norms, in place."""
    for add in [node for node in model.graph if node.op_type == "Add"]:
        offset, x = _per_channel(add)
        multiply = x.producer() if x is not None else None
        if offset is None or multiply is None or multiply.op_type != "Mul" or len(multiply.outputs[0].uses()) != 1:
            continue
        factor, source = _per_channel(multiply)
        if factor is None or source is None or factor.size != offset.size:
            continue
        norm = source.producer()
        if norm is not None and norm.op_type == "BatchNormalization" and len(source.uses()) == 1:
            gamma, beta = (constant_array(norm.inputs[index]) for index in (1, 2))
            if gamma is None or beta is None:
                continue
            name = name_of(norm.outputs[0])
            replace_constant(model, norm, 1, f"{name}_scaled", (gamma * factor).astype(np.float32))
            replace_constant(model, norm, 2, f"{name}_shifted", (beta * factor + offset).astype(np.float32))
            _drop(model, add, source)
        else:
            _drop(model, add, _unit_norm(model, add, source, factor, offset))
        model.graph.remove(multiply, safe=True)


def explicit_pads(model: ir.Model, path: Path) -> None:
    """Write as ``pads`` what ``auto_pad`` asks for, in place; ONNX's Conv and pooling operators define it.

    Raises:
        GraphError: the size of what is padded is not known.
    """
    for node in model.graph:
        how = node.attributes.get_string("auto_pad", "NOTSET")
        if "auto_pad" not in node.attributes:
            continue
        del node.attributes["auto_pad"]
        if how == "NOTSET":
            continue
        kernel = list(node.attributes.get_ints("kernel_shape", [])) or _sides(node.inputs[1])
        sizes = _sides(node.inputs[0])
        if how != "VALID" and len(sizes) != len(kernel):
            raise GraphError(f"graph {path} pads {node.name} by a size that is not known", "export it with its pads")
        ones = [1] * len(kernel)
        steps, gaps = (list(node.attributes.get_ints(key, ones)) for key in ("strides", "dilations"))
        missing = [0] * len(kernel)
        if how != "VALID":
            for axis, (size, step) in enumerate(zip(sizes, steps, strict=True)):
                outputs, reach = -(-size // step), (kernel[axis] - 1) * gaps[axis] + 1
                missing[axis] = max(0, (outputs - 1) * step + reach - size)
        less, more = [each // 2 for each in missing], [each - each // 2 for each in missing]
        pads = [*less, *more] if how != "SAME_LOWER" else [*more, *less]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _sides(value: ir.Value | None) -> list[int]:
    """The dimensions of a picture or a kernel that are known."""
    shape = value.shape if value is not None and value.shape is not None else ()
    return [side for side in list(shape)[2:] if isinstance(side, int)]


def _unit_norm(model: ir.Model, before: ir.Node, x: ir.Value, factor: np.ndarray, offset: np.ndarray) -> ir.Value:
    name = name_of(before.outputs[0])
    arrays = {"scale": factor, "bias": offset, "mean": np.zeros_like(factor), "var": np.ones_like(factor)}
    constants = [add_initializer(model, f"{name}_{key}", array.astype(np.float32)) for key, array in arrays.items()]
    norm = ir.node("BatchNormalization", [x, *constants], {"epsilon": 0.0}, name=f"{name}_norm")
    norm.outputs[0].name = f"{name}_normed"
    norm.outputs[0].type, norm.outputs[0].shape = x.type, x.shape
    model.graph.insert_before(before, norm)
    return norm.outputs[0]


def _per_channel(node: ir.Node) -> tuple[np.ndarray | None, ir.Value | None]:
    """The constant of a Mul or Add that has one number a channel, [channels]; and what it is applied to."""
    for index in (0, 1):
        array, other = constant_array(node.inputs[index]), node.inputs[1 - index]
        if array is None or other is None or other.shape is None or len(other.shape) != _SMALLEST_RANK:
            continue
        if array.ndim >= 3 and array.size == array.shape[-3] == other.shape[1]:
            return array.reshape(-1), other
    return None, None


def _drop(model: ir.Model, node: ir.Node, instead: ir.Value) -> None:
    node.outputs[0].replace_all_uses_with(instead, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _input(proto: onnx.ModelProto, path: Path) -> tuple[int, tuple[int, int] | None]:
    """Channels, and the size where it is fixed."""
    constants = {each.name for each in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in constants]
    if len(inputs) != 1:
        raise GraphError(f"graph {path} has {len(inputs)} inputs", "give a graph with one batch of images as its input")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    found = f"{ir.DataType(tensor.elem_type).name.lower()} [{', '.join(str(dim or '?') for dim in dims)}]"
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(dims) != _SMALLEST_RANK or dims[1] not in (1, 3):
        raise GraphError(
            f"the input of graph {path} is {found}, and float [batch, 1 or 3, height, width] is expected",
            "export it with float images, channels first",
        )
    height, width = dims[2], dims[3]
    return dims[1], (height, width) if height and width else None


def _with_free_batch(proto: onnx.ModelProto, channels: int, size: tuple[int, int]) -> onnx.ModelProto:
    """The graph with a symbolic batch: its shapes are forgotten, and a reshape to one image keeps what comes."""
    constants = {each.name: each for each in proto.graph.initializer}
    tensor = next(each for each in proto.graph.input if each.name not in constants).type.tensor_type
    was_fixed = tensor.shape.dim[0].HasField("dim_value")
    tensor.shape.ClearField("dim")
    for value in ("batch", channels, *size):
        dim = tensor.shape.dim.add()
        if isinstance(value, str):
            dim.dim_param = value
        else:
            dim.dim_value = value
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    if was_fixed:
        made = {node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"}
        for node in proto.graph.node:
            target = made.get(node.input[1]) or constants.get(node.input[1]) if node.op_type == "Reshape" else None
            if target is not None and (shape := onnx.numpy_helper.to_array(target)).size and shape[0] == 1:
                freed = np.array([0, *shape[1:]], np.int64)
                target.CopyFrom(onnx.numpy_helper.from_array(freed, target.name))
    return proto


def _converted(proto: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    if opset < OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as exc:
            reason = str(exc).strip().splitlines()[0]
            raise GraphError(
                f"graph {path} cannot be brought from opset {opset} to {OPSET}: {reason}",
                f"export it with opset {OPSET}",
            ) from exc
    proto.ir_version = _IR_VERSION
    return proto


def _tidy(model: ir.Model) -> None:
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):
        alone = node.op_type == "Concat" and len(node.inputs) == 1
        if (alone or node.op_type in ("Identity", "Dropout")) and node.inputs[0] is not None:
            _drop(model, node, node.inputs[0])
    fold_constants(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    for index, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{index}"


def _rename(model: ir.Model, path: Path) -> None:
    if len(model.graph.outputs) != 1:
        raise GraphError(f"graph {path} has {len(model.graph.outputs)} outputs", "give a graph with logits only")
    ends = {INPUT: model.graph.inputs[0], OUTPUT: model.graph.outputs[0]}
    for node in model.graph:
        for value in node.outputs:
            if value.name in ends and value is not ends[value.name]:
                value.name = f"{value.name}_inner"
    for name, value in model.graph.initializers.items():
        if name in ends:
            raise GraphError(f"graph {path} has a constant named '{name}'", "rename it")
        assert value.name == name
    for name, value in ends.items():
        value.name = name


def _inferred(model: ir.Model, path: Path) -> ir.Model:
    try:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True, data_prop=True)
        onnx.checker.check_model(proto)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as exc:
        reason = str(exc).strip().splitlines()[0]
        raise GraphError(f"graph {path} is not valid ONNX: {reason}", "export it again") from exc
    return ir.from_proto(proto)


def _classes(model: ir.Model, path: Path) -> int:
    """The number of classes; [batch, classes, 1, 1] is flattened."""
    output = model.graph.outputs[0]
    shape = list(output.shape) if output.shape is not None else []
    if len(shape) == _SMALLEST_RANK and shape[2:] == [1, 1] and isinstance(shape[1], int):
        output.name = f"{OUTPUT}_with_pixels"
        flatten = ir.node("Flatten", [output], name="flatten_logits")
        flatten.outputs[0].name, flatten.outputs[0].type = OUTPUT, output.type
        flatten.outputs[0].shape = ir.Shape([shape[0], shape[1]])
        model.graph.append(flatten)
        model.graph.outputs[0] = flatten.outputs[0]
        return int(shape[1])
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise GraphError(
            f"graph {path} gives {[str(each) for each in shape]} where [batch, classes] is expected",
            "give the graph of a classifier",
        )
    return int(shape[1])
