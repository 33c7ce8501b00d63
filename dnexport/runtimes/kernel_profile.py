"""What a CPU really executes, and how long: read off the kernels that the runtimes name in profiles of their queries.

What was asked for proves nothing: on a CPU with AMX, OpenVINO computes FP32 graphs in bf16 unless it is told otherwise.
Each runtime's adapter reads its own profile; this file judges what they have read.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

from dnexport.errors import BuildFailed
from dnexport.runtimes.contract import Executed, KernelTime
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import SATURATION, Execution

Role = Literal["convolution", "body", "reformat"]
# Queries of a profile that tells times: first those that do not count.
WARM_UP, PROFILED = 2, 7
# What runtimes append to the name of a node that they have rewritten, or of its value.
_APPENDED = re.compile(r"(_token_\d+|_nchwc|_bn|/[^/]*)$")


class Kernel(NamedTuple):
    """One kernel of a query.

    Attributes:
        name: of the graph's node that it computes.
        role: what it does, as far as it matters here.
        kind: of its arithmetic: ``int8``, ``f16``, ``bf16``, ``f32``.
        macs: multiply-adds an image, read off shapes; None where the profile does not tell.
    """

    name: str
    role: Role
    kind: str
    macs: int | None = None


def executed_from_kernels(
    kernels: Sequence[Kernel], macs: Mapping[str, int], engine: str, *, quantized: bool, saturating: bool = False
) -> Executed:
    """The arithmetic of an engine: of most of its convolution work, and of the float body around int8.

    Args:
        kernels: of one query.
        macs: multiply-adds by name of the convolution; else what its kernel tells.
        engine: for the error.
        quantized: its graph has kernels that quantize.
        saturating: the int8 kernels of this processor add products in 16 bits.

    Raises:
        BuildFailed: the profile names no convolution, or kernels of an unknown type.
    """
    convolutions = [kernel for kernel in kernels if kernel.role == "convolution"]
    if not convolutions:
        raise BuildFailed(f"{engine}: the runtime's profile names no convolution kernels", "see 'dnexport doctor'")
    work = _work(convolutions, macs)
    most = max(work, key=lambda kind: work[kind])
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(k.kind for k in convolutions).most_common())
    statement = f"types of the {len(convolutions)} convolution kernels in the runtime's own profile: {counts}"
    if most != "int8" and quantized:
        statement += "; this runtime simulates the quantization in float"
    if most == "int8" and saturating:
        statement += f"; {SATURATION}"
    reformats = sum(kernel.role == "reformat" for kernel in kernels)
    proof = PrecisionProof(source="kernel profile", conv_work=work, reformats=reformats, statement=statement)
    word = _word(most, kernels, saturating)
    if word not in {each.value for each in Execution}:
        raise BuildFailed(f"{engine}: most of its kernels are of the unknown type '{word}'", "report this to dnexport")
    return Executed(Execution(word), proof)


def _word(most: str, kernels: Sequence[Kernel], saturating: bool) -> str:
    if most != "int8":
        return most
    # A concatenation between two quantized convolutions may itself be int8; the body is what is not.
    body = Counter(kernel.kind for kernel in kernels if kernel.role == "body" and kernel.kind != "int8")
    return f"int8{'-saturating' if saturating else ''}+{body.most_common(1)[0][0] if body else 'f32'}"


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
