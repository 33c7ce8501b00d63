"""Time by part of the network, from the time of each kernel, and the side of the roofline.

A part of intensity I = multiply-adds / bytes cannot run faster than min(P, I·B), with P the multiply-adds and B the
bytes a second that the machine can do (Williams, Waterman and Patterson 2009): left of the ridge P/B memory limits it,
right of it arithmetic. No data sheet is asked: P and B are the most that a kernel of one convolution or matrix product,
or a part, reached in this very profile, caches included. Both are lower bounds of what the machine can do. The
intensity is the graph's, of one image: larger batches read weights less often.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from dnexport.runtimes.contract import KernelTime
from dnexport.runtimes.kernel_profile import known_name
from dnexport.spec.latency import PartTime
from dnexport.spec.metrics import PartCensus

OTHER = "other"


def part_times(kernels: Sequence[KernelTime], parts: Sequence[PartCensus]) -> tuple[PartTime, ...]:
    """The time of each part, in the order of the graph; the shares sum to 1.

    Runtimes add kernels that the graph does not have: a norm that is taken apart, a change of layout. Such a kernel
    counts where the next one of a known name does, which reads what it prepares; those after the last are ``other``.

    Args:
        kernels: of one query, in the order in which they run.
        parts: of the graph; without them there are no times of parts.
    """
    total = sum(kernel.ms for kernel in kernels)
    if not parts or not total:
        return ()
    ms: dict[str, float] = {part.part: 0.0 for part in parts}
    count: Counter[str] = Counter()
    for kernel, part in zip(kernels, _parts_of(kernels, parts), strict=True):
        ms[part] = ms.get(part, 0.0) + kernel.ms
        count[part] += 1
    bound = _bounds(ms, _products_alone(kernels, parts), parts)
    known = {part.part: part for part in parts}
    return tuple(
        PartTime(
            part=name,
            share=time / total,
            ms=time,
            kernels=count[name],
            macs=known[name].macs if name in known else None,
            bytes=known[name].bytes if name in known else None,
            bound=bound.get(name),
        )
        for name, time in ms.items()
    )


def _parts_of(kernels: Sequence[KernelTime], parts: Sequence[PartCensus]) -> list[str]:
    """The part of each kernel: where most of its names lie, else that of the next kernel."""
    part_of = {name: part.part for part in parts for name in (*part.values, *part.nodes)}
    found: list[str] = []
    following = OTHER
    for kernel in reversed(kernels):
        names = [name for told in kernel.names if (name := known_name(told, part_of))]
        votes = Counter(part_of[name] for name in names)
        following = votes.most_common(1)[0][0] if votes else following
        found.append(following)
    return found[::-1]


class _Work(NamedTuple):
    """Multiply-adds and bytes, and the milliseconds that they took."""

    macs: int
    bytes: int
    ms: float


def _products_alone(kernels: Sequence[KernelTime], parts: Sequence[PartCensus]) -> list[_Work]:
    """The products that no kernel computes together with others, with the time of all kernels that name them."""
    products = [product for part in parts for product in part.products]
    product_of = {name: index for index, product in enumerate(products) for name in product.names}
    ms: dict[int, float] = {}
    shared: set[int] = set()
    for kernel in kernels:
        named = {product_of[name] for told in kernel.names if (name := known_name(told, product_of))}
        shared |= named if len(named) > 1 else set()
        for index in named:
            ms[index] = ms.get(index, 0.0) + kernel.ms
    return [_Work(products[i].macs, products[i].bytes, time) for i, time in ms.items() if i not in shared]


def _bounds(
    ms: Mapping[str, float], products: Sequence[_Work], parts: Sequence[PartCensus]
) -> dict[str, Literal["compute", "memory"]]:
    """The side of each part that took time; none where nothing tells how fast the machine is."""
    timed = [part for part in parts if ms[part.part] > 0]
    works = [work for work in (*products, *(_Work(p.macs, p.bytes, ms[p.part]) for p in timed)) if work.ms > 0]
    most_macs = max((work.macs / work.ms for work in works), default=0.0)
    most_bytes = max((work.bytes / work.ms for work in works), default=0.0)
    if not most_macs or not most_bytes:
        return {}
    # I ≥ P/B, without the quotients: what has no multiply-adds only moves bytes.
    return {
        part.part: "compute" if part.macs and part.macs * most_bytes >= most_macs * part.bytes else "memory"
        for part in timed
    }
