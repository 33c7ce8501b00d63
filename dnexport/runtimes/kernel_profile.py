"""What a CPU really executes, read off the kernels in the runtime's own profile of one query.

OpenVINO names each kernel (``PERF_COUNT``): ``brgconv_avx512_amx_i8``. ONNX Runtime's own kernels tell the types and
the shapes of what they read. What was asked for proves nothing: on a CPU with AMX, OpenVINO computes FP32 graphs in
bf16 unless it is told otherwise.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dnexport.errors import BuildFailed
from dnexport.runtimes.contract import Executed
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution

# Suffixes of OpenVINO's kernel names; types of ONNX Runtime's own kernels.
_OPENVINO_TYPES = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "f16", "f32": "f32"}
_OWN_TYPES = {"int8": "int8", "uint8": "int8", "float16": "f16", "float": "f32"}
# What ONNX Runtime appends to the name of a node that it has rewritten.
_TOKEN = re.compile(r"_token_\d+$")
_OWN_REFORMATS = ("ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear", "Cast")


class Kernel(NamedTuple):
    """One kernel of a query.

    Attributes:
        name: of the graph's node that it computes.
        role: what it does, as far as it matters here.
        kind: of its arithmetic: ``int8``, ``f16``, ``bf16``, ``f32``.
        macs: multiply-adds an image, read off shapes; None where the profile does not tell.
    """

    name: str
    role: Literal["convolution", "body", "reformat"]
    kind: str
    macs: int | None = None


def openvino_kernel(event: Mapping[str, Any]) -> Kernel | None:
    """A kernel of OpenVINO's profile; None for what does not matter here."""
    args = event.get("args", {})
    if "ov_exec_type" not in args:
        return None
    name = event["name"].removeprefix("OV::")
    suffix = args["ov_exec_type"].rpartition("_")[2].lower()  # "I8" where activations are unsigned
    kind = _OPENVINO_TYPES.get(suffix, args["ov_exec_type"])
    if args["ov_node_type"] in ("Convolution", "GroupConvolution"):
        return Kernel(name, "convolution", kind)
    if args["ov_node_type"] == "Reorder":
        return Kernel(name, "reformat", kind)
    return Kernel(name, "body", kind) if args["ov_node_type"] in ("Concat", "FullyConnected") else None


def own_kernel(event: Mapping[str, Any]) -> Kernel | None:
    """A kernel of ONNX Runtime's own profile; None for what does not matter here."""
    args = event.get("args", {})
    operator, read = args.get("op_name", ""), args.get("input_type_shape")
    if not read:
        return None
    kind = next(iter(read[0]))
    name = _TOKEN.sub("", event["name"].removesuffix("_kernel_time"))
    if operator in _OWN_REFORMATS:
        return Kernel(name, "reformat", _OWN_TYPES.get(kind, kind))
    if "Conv" not in operator:
        return None
    shapes = [next(iter(each.values())) for each in read[1:]]
    weight: list[int] = next((shape for shape in shapes if len(shape) == 4), [])
    output = next(iter(args["output_type_shape"][0].values()))
    # A quantized convolution has its weight packed away, and may write channels last.
    macs = math.prod(weight) * math.prod(output[2:]) if weight else None
    return Kernel(name, "convolution", _OWN_TYPES.get(kind, kind), macs)


def executed_from_kernels(
    kernels: Sequence[Kernel], macs: Mapping[str, int], asked: Execution, engine: str
) -> Executed:
    """The arithmetic of an engine: of most of its convolution work, and of the float body around int8.

    Args:
        kernels: of one query.
        macs: multiply-adds by name of the convolution; else what its kernel tells.
        asked: of the runtime.
        engine: for the error.

    Raises:
        BuildFailed: the profile names no convolution.
    """
    convolutions = [kernel for kernel in kernels if kernel.role == "convolution"]
    if not convolutions:
        raise BuildFailed(f"{engine}: the runtime's profile names no convolution kernels", "see 'dnexport doctor'")
    work = _work(convolutions, macs)
    most = max(work, key=lambda kind: work[kind])
    # A concatenation between two quantized convolutions may itself be int8; the body is what is not.
    body = Counter(kernel.kind for kernel in kernels if kernel.role == "body" and kernel.kind != "int8")
    word = f"int8+{body.most_common(1)[0][0] if body else 'f32'}" if most == "int8" else most
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(k.kind for k in convolutions).most_common())
    statement = f"types of the {len(convolutions)} convolution kernels in the runtime's own profile: {counts}"
    if most != "int8" and asked.value.startswith("int8"):
        statement += "; this runtime simulates the quantization in float"
    reformats = sum(kernel.role == "reformat" for kernel in kernels)
    proof = PrecisionProof(source="kernel profile", conv_work=work, reformats=reformats, statement=statement)
    return Executed(Execution(word), proof)


def _work(convolutions: Iterable[Kernel], macs: Mapping[str, int]) -> dict[str, float]:
    """Shares of the multiply-adds; a convolution of which nothing is known counts as the smallest that is."""
    least = min(macs.values(), default=1)
    work: Counter[str] = Counter()
    for kernel in convolutions:
        known = _macs_of(kernel.name, macs)
        work[kernel.kind] += known if known is not None else kernel.macs if kernel.macs is not None else least
    return {kind: count / work.total() for kind, count in sorted(work.items())}


def _macs_of(name: str, macs: Mapping[str, int]) -> int | None:
    """By the node's name, to which a runtime may have appended parts: ``node_Conv_3/WithoutBiases``."""
    while name not in macs and "/" in name:
        name = name.rpartition("/")[0]
    return macs.get(name)
