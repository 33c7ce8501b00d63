"""What a TensorRT plan executes, read off its engine inspector.

The inspector's JSON lists the layers after fusion. A plan built with detailed verbosity tells of each the types of its
tensors and weights, and which nodes of the graph it computes: in its name (``node_Conv_605 + relu``) and in its
metadata (``[ONNX Layer: node_Conv_605]``). A tensor's type is not told while its shape is open, so the context that is
inspected must have its shapes set; the weights' type and the kernel's name (``…_i8i8_i8i32_f32_…``) are told anyway.

TensorRT up to 10 writes a tensor's format and data type into one field, ``Format/Datatype``. The migration guide of
TensorRT 11.0 announces that the field is split, and documents ``Format`` and ``DataType`` for the engine's inputs and
outputs. The library of TensorRT for RTX 1.7.1 writes ``Format`` and ``Datatype`` for a layer's tensors. Both spellings
are read, and ``Data Type``, which no source has. A tensor with none of these fields has no known type.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dnexport.runtimes.contract import Executed
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution

# Words of a tensor's format, the telling ones first: "Row major linear FP16 format", "Half", "BFloat16".
_WORDS = (
    ("int8", "int8"),
    ("fp8", "fp8"),
    ("bfloat16", "bf16"),
    ("bf16", "bf16"),
    ("half", "f16"),
    ("fp16", "f16"),
    ("float", "f32"),
    ("fp32", "f32"),
)
# A tensor's type; the data type goes first, for TensorRT 10 calls the format of INT64 tensors one of INT8.
_FIELDS = ("Datatype", "DataType", "Data Type", "Format/Datatype", "Format")
_TACTIC = re.compile(r"_(i8|bf16|f16|tf32|f32)(?:i8|i32|bf16|f16|tf32|f32)")
_TACTIC_WORDS = {"i8": "int8"}
_METADATA = re.compile(r"\[ONNX Layer: ([^\]|]+?)(?: \||\])")
_MOVES_ONLY = ("reformat", "noop", "constant", "signal", "wait")
_FLOATS = tuple(execution.value for execution in (Execution.F16, Execution.BF16, Execution.F32))


class Layer(NamedTuple):
    """One layer of a plan.

    Attributes:
        nodes: of the graph, that it computes or whose metadata it carries.
        rank: 0 a convolution kernel, 1 a kernel of matrix products, 2 any other, None what computes nothing.
        kind: of its arithmetic: ``int8``, ``f16``, ``bf16``, ``f32``, ``tf32``; ``unknown`` where nothing tells.
        output: kind of its first output.
        reformat: it only changes a type or a layout.
    """

    nodes: frozenset[str]
    rank: int | None
    kind: str
    output: str
    reformat: bool


def layers_from_inspector(text: str) -> list[Layer]:
    """The layers of the inspector's JSON; none where it is empty, no JSON, or names without types."""
    return [_layer(entry) for entry in _entries(text)]


def nodes_by_layer(text: str) -> dict[str, tuple[str, ...]]:
    """The graph's nodes by name of the layer that computes them or carries their metadata."""
    return {str(entry.get("Name", "")): tuple(sorted(_nodes(entry))) for entry in _entries(text)}


def nodes_in_name(layer: str) -> tuple[str, ...]:
    """The nodes that a layer's name holds, for layers that the inspector does not know."""
    return tuple(sorted(_nodes({"Name": layer})))


def executed_from_layers(layers: Sequence[Layer], macs: Mapping[str, int], asked: Execution, ends: str) -> Executed:
    """The arithmetic of a plan: of most of its convolution work, and of the float body around int8.

    Args:
        layers: of the inspector.
        macs: multiply-adds an image by name of the convolution; a kernel that names none of them counts as the least.
        asked: what the typed graph says, which is all that is known where the plan tells of no convolution.
        ends: the types of the engine's input and outputs, in words.
    """
    kernels = _kernels(layers, macs)
    named = [(layer, work) for layer, work in kernels if layer is not None]
    if not any(layer.kind != "unknown" for layer, _ in named):
        statement = f"the plan tells nothing of its kernels ({ends}); which of them run is unproven"
        return Executed(
            asked, PrecisionProof(source="engine inspector", conv_work={}, reformats=None, statement=statement)
        )
    work: Counter[str] = Counter()
    for layer, count in kernels:
        work[layer.kind if layer is not None else "unknown"] += count
    known = {kind: count for kind, count in work.items() if kind != "unknown"}
    most = max(known, key=lambda kind: known[kind])
    counts = Counter(layer.kind for layer, _ in named)
    reformats = sum(layer.reformat for layer in layers)
    statement = (
        f"types of the {len(named)} convolutions in TensorRT's engine inspector:"
        f" {', '.join(f'{count} {kind}' for kind, count in counts.most_common())}; {ends}"
    )
    if len(named) < len(kernels):
        statement += f"; no layer names the other {len(kernels) - len(named)}"
    if asked.value.startswith("int8") and most != "int8":
        statement += "; the graph is quantized, and most of the work is not int8"
    shares = {kind: count / work.total() for kind, count in sorted(work.items())}
    proof = PrecisionProof(source="engine inspector", conv_work=shares, reformats=reformats, statement=statement)
    return Executed(_execution(most, layers, asked), proof)


def _kernels(layers: Sequence[Layer], macs: Mapping[str, int]) -> list[tuple[Layer | None, int]]:
    """(layer, multiply-adds) of each convolution; no layer where none names it.

    Kernels before and after a convolution may carry its name in their metadata, so the one that is most of a
    convolution counts.
    """
    best: dict[str, Layer] = {}
    for layer in layers:
        for name in layer.nodes & macs.keys():
            if layer.rank is not None and (name not in best or layer.rank < (best[name].rank or 0)):
                best[name] = layer
    least = min(macs.values(), default=1)
    nameless = [layer for layer in layers if layer.rank == 0 and not layer.nodes & macs.keys()]
    if not best:
        return [(layer, 1) for layer in nameless]
    kernels: list[tuple[Layer | None, int]] = [(best.get(name), count) for name, count in macs.items()]
    return kernels + [(layer, least) for layer in nameless]


def _execution(most: str, layers: Sequence[Layer], asked: Execution) -> Execution:
    if most != "int8":
        return Execution(most) if most in _FLOATS else asked
    body = Counter(layer.output for layer in layers if layer.rank is not None and layer.output in _FLOATS)
    return Execution(f"int8+{body.most_common(1)[0][0] if body else 'f16'}")


def _entries(text: str) -> list[Mapping[str, Any]]:
    try:
        document = json.loads(text, strict=False)  # metadata holds bare separators of ASCII
    except json.JSONDecodeError:
        return []
    entries = document.get("Layers", []) if isinstance(document, dict) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _layer(entry: Mapping[str, Any]) -> Layer:
    form = str(entry.get("LayerType", "")).lower()
    tactic = str(entry.get("TacticName", ""))
    data, output = _kind_of_first(entry.get("Inputs")), _kind_of_first(entry.get("Outputs"))
    weights = entry.get("Weights")
    weight = _kind(str(weights.get("Type", ""))) if isinstance(weights, dict) else None
    return Layer(_nodes(entry), _rank(form, entry), _arithmetic(data, weight, tactic), output or "", form == "reformat")


def _rank(form: str, entry: Mapping[str, Any]) -> int | None:
    if form in _MOVES_ONLY:
        return None
    if "conv" in form or entry.get("ParameterType") == "Convolution":
        return 0
    return 1 if form in ("gemm", "fusion", "matrixmultiply") else 2


def _arithmetic(data: str | None, weight: str | None, tactic: str) -> str:
    """Both operands are int8, or it is the type of the one that is not: int8 weights alone are widened first."""
    match = _TACTIC.search(tactic)
    kernel = _TACTIC_WORDS.get(match[1], match[1]) if match else None
    told = weight if data == "int8" and weight else data or weight
    # Tensors of TF32 kernels are FP32.
    return kernel if kernel and told in (None, "f32") else told or "unknown"


def _nodes(entry: Mapping[str, Any]) -> frozenset[str]:
    parts = re.split(r" \+ | \|\| ", str(entry.get("Name", "")))
    plain = [part.removeprefix("PWN(").removesuffix(")") if part.startswith("PWN(") else part for part in parts]
    return frozenset([*plain, *_METADATA.findall(str(entry.get("Metadata", "")))])


def _kind_of_first(tensors: Any) -> str | None:
    first = tensors[0] if isinstance(tensors, list) and tensors else None
    if not isinstance(first, dict):
        return None
    told = next((str(first[field]) for field in _FIELDS if first.get(field)), "")
    return _kind(told)


def _kind(words: str) -> str | None:
    lowered = words.lower()
    return next((kind for word, kind in _WORDS if word in lowered), None)
