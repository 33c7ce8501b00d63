"""What a CPU really executes and how long, read off the kernels in the runtime's own profile of its queries.

OpenVINO names each kernel (``PERF_COUNT``): ``brgconv_avx512_amx_i8``. ONNX Runtime's own kernels tell the types and
the shapes of what they read. What was asked for proves nothing: on a CPU with AMX, OpenVINO computes FP32 graphs in
bf16 unless it is told otherwise.

ONNX Runtime tells each kernel's time in each query (``dur``). OpenVINO's ``dur`` is the mean over all queries so far,
the slow first one among them (1.31 with plug-in 1.8), but each kernel's start (``ts``) is this query's: a kernel takes
until the next one starts.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

from dnexport.errors import BuildFailed
from dnexport.runtimes.contract import Executed, KernelTime
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution

# Suffixes of OpenVINO's kernel names; types of ONNX Runtime's own kernels.
_OPENVINO_TYPES = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "f16", "f32": "f32"}
_OWN_TYPES = {"int8": "int8", "uint8": "int8", "float16": "f16", "float": "f32"}
# What runtimes append to the name of a node that they have rewritten, or of its value.
_APPENDED = re.compile(r"(_token_\d+|_nchwc|_bn|/[^/]*)$")
_OWN_KERNEL = "_kernel_time"
# Queries of a profile that tells times: first those that do not count.
WARM_UP, PROFILED = 2, 7
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
    name = event["name"].removesuffix(_OWN_KERNEL)
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
        named = known_name(kernel.name, macs)
        work[kernel.kind] += macs[named] if named else kernel.macs if kernel.macs is not None else least
    return {kind: count / work.total() for kind, count in sorted(work.items())}


def known_name(name: str, known: Container[str]) -> str | None:
    """A name of the graph, to which a runtime may have appended parts: ``node_Conv_3/WithoutBiases``; None if none."""
    while name not in known:
        shorter = _APPENDED.sub("", name)
        if shorter == name:
            return None
        name = shorter
    return name


def openvino_times(events: Iterable[Mapping[str, Any]]) -> tuple[KernelTime, ...]:
    """Times of OpenVINO's kernels, from the profile of `WARM_UP` + `PROFILED` queries."""
    queries: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if "ov_exec_type" in event.get("args", {}):
            queries[event["args"]["ort_correlation_id"]].append(event)
    times = []
    before = 0.0
    for number, kernels in enumerate(queries.values(), 1):
        begins = [kernel["ts"] for kernel in kernels]
        # Nothing starts after the last kernel: its time is what was added to the sum behind its mean.
        total = number * kernels[-1]["dur"]
        ends = [*begins[1:], begins[-1] + max(0.0, total - before)]
        before = total
        names = [kernel["name"].removeprefix("OV::") for kernel in kernels]
        times.append([(name, (end - begin) / 1e3) for name, begin, end in zip(names, begins, ends, strict=True)])
    return times_from_queries(times)


def own_times(events: Iterable[Mapping[str, Any]]) -> tuple[KernelTime, ...]:
    """Times of ONNX Runtime's own kernels, from a profile of as many."""
    queries: list[list[tuple[str, float]]] = []
    for event in sorted(events, key=lambda event: (event["ts"], event["name"] != "model_run")):
        if event["name"] == "model_run":
            queries.append([])
        elif queries and event["name"].endswith(_OWN_KERNEL):
            queries[-1].append((event["name"].removesuffix(_OWN_KERNEL), event["dur"] / 1e3))
    return times_from_queries(queries)


def times_from_queries(queries: Sequence[Sequence[tuple[str, float]]]) -> tuple[KernelTime, ...]:
    """The median of each kernel, in the order of the last query.

    Args:
        queries: (name, milliseconds) of each kernel, `WARM_UP` queries first.
    """
    seen: defaultdict[str, list[float]] = defaultdict(list)
    for query in queries[WARM_UP:]:
        total: defaultdict[str, float] = defaultdict(float)
        for name, ms in query:
            total[name] += ms
        for name, ms in total.items():
            seen[name].append(ms)
    last = dict.fromkeys(name for name, _ in queries[-1]) if queries else {}
    return tuple(KernelTime((name,), median(seen[name])) for name in last)
