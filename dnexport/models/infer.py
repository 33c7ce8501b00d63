"""What a network is, read off the shapes of its parameters.

Only what shapes determine is read; the record that comes out is then filled strictly: a wrong reading cannot load.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from dnexport.errors import CheckpointError
from dnexport.spec.archs import CondenseNetArch, DenseNetArch, DpnArch, FamilyArch, PeleeNetArch


class Shapes:
    """Shapes of a state dict, by this project's names.

    Args:
        state: in this project's names.
        origin: named in errors.
    """

    def __init__(self, state: Mapping[str, Tensor], origin: str) -> None:
        self._state, self._origin = state, origin

    def __contains__(self, key: str) -> bool:
        return key in self._state

    def of(self, key: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there with so many dimensions.

        Raises:
            CheckpointError: it is not; a 1-D or 3-D network is named as such.
        """
        if key not in self._state:
            raise CheckpointError(f"checkpoint {self._origin} lacks {key}", "give a whole state dict")
        shape = tuple(self._state[key].shape)
        if dimensions == 4 and len(shape) in (3, 5):
            raise CheckpointError(
                f"checkpoint {self._origin} is of a {len(shape) - 2}-D network: {key} is {list(shape)}",
                "give the weights of a 2-D network",
            )
        if len(shape) != dimensions:
            raise CheckpointError(
                f"checkpoint {self._origin} has {key} of {list(shape)} where {dimensions} dimensions belong",
                "give a whole state dict",
            )
        return shape

    def convolution(self, key: str) -> tuple[int, ...]:
        """Output channels, input channels of a group, kernel height and width."""
        return self.of(key, 4)

    def count(self, pattern: str) -> int:
        """The largest number that the pattern's group takes in any key; 0 where there is none.

        Raises:
            CheckpointError: a number that the keys cannot count up to.
        """
        found = [match[1] for key in self._state if (match := re.match(pattern, key))]
        largest = max((int(number) if len(number) < 7 else 10**7 for number in found), default=0)
        if largest > len(self._state):
            raise CheckpointError(
                f"checkpoint {self._origin} numbers a layer {max(found, key=len)} and has {len(self._state)} keys",
                "give a whole state dict",
            )
        return largest

    def value(self, key: str) -> Tensor:
        """A tensor itself."""
        self.of(key, self._state[key].ndim if key in self._state else 0)
        return self._state[key]


def arch_from_state(family: str, state: Mapping[str, Tensor], origin: str) -> FamilyArch:
    """The record of the network whose parameters these are.

    Raises:
        CheckpointError: a parameter that tells is missing, or the shapes are of no such network.
    """
    shapes = Shapes(state, origin)
    readers: dict[str, Callable[[Shapes], FamilyArch]] = {
        "densenet": _densenet,
        "condensenet": _condensenet,
        "peleenet": _peleenet,
        "dpn": _dpn,
    }
    try:
        return readers[family](shapes)
    except (ValueError, ZeroDivisionError) as exc:  # pydantic's ValidationError is a ValueError
        raise CheckpointError(
            f"checkpoint {origin} has the keys of a {family} but not its shapes", "give a whole state dict"
        ) from exc


def _densenet(shapes: Shapes) -> DenseNetArch:
    stem = shapes.convolution("features.conv0.weight")
    first = "features.denseblock1.denselayer1"
    inner = shapes.convolution(f"{first}.conv1.weight")[0]
    bottlenecked = f"{first}.conv2.weight" in shapes
    k = shapes.convolution(f"{first}.conv2.weight")[0] if bottlenecked else inner
    blocks = shapes.count(r"features\.denseblock(\d+)\.")
    layers = tuple(shapes.count(rf"features\.denseblock{b}\.denselayer(\d+)\.") for b in range(1, blocks + 1))
    return DenseNetArch(
        blocks=layers,
        k=k,
        bottleneck=inner // k if bottlenecked else 0,
        theta=_theta(shapes, blocks),
        stem="imagenet" if stem[2] == 7 else "cifar",
        init=stem[0],
        channels=stem[1],
        classes=shapes.of("classifier.weight", 2)[0],
    )


def _theta(shapes: Shapes, blocks: int) -> float:
    """The compression that gives every transition's outputs; the papers' 0.5 and 1 before any other."""
    pairs = [shapes.convolution(f"features.transition{b}.conv.weight")[:2] for b in range(1, blocks)]
    candidates = [0.5, 1.0, *(kept / channels for kept, channels in pairs)]
    return next((t for t in candidates if all(int(channels * t) == kept for kept, channels in pairs)), 0.5)


def _condensenet(shapes: Shapes) -> CondenseNetArch:
    blocks = shapes.count(r"features\.denseblock_(\d+)\.")
    stages = tuple(shapes.count(rf"features\.denseblock_{b}\.denselayer_(\d+)\.") for b in range(1, blocks + 1))
    first = "features.denseblock_1.denselayer_1"
    converted = f"{first}.conv_1.index" in shapes
    stem = shapes.convolution("features.init_conv.weight")
    growth = tuple(
        shapes.convolution(f"features.denseblock_{b}.denselayer_1.conv_2.conv.weight")[0] for b in range(1, blocks + 1)
    )
    inner = shapes.convolution(f"{first}.conv_1.conv.weight")[0]
    groups = inner // shapes.convolution(f"{first}.conv_2.conv.weight")[1]
    if converted:
        condense = stem[0] * groups // shapes.of(f"{first}.conv_1.index", 1)[0]
    else:
        # A mask keeps 1/C once condensing is over; before that only the authors' rule C = G is left.
        kept = float(shapes.value(f"{first}.conv_1._mask").float().mean())
        condense = round(1 / kept) if 0 < kept < 1 else groups
    halved = "classifier.linear.weight" in shapes
    return CondenseNetArch(
        stages=stages,
        growth=growth,
        bottleneck=inner // growth[0],
        groups=groups,
        condense=condense,
        # A stride leaves no trace in the weights: the authors' ImageNet nets have five blocks, the CIFAR nets three.
        stem="imagenet" if blocks > 3 else "cifar",
        form="converted" if converted else "training",
        head="all" if converted and not halved else "half",
        channels=stem[1],
        classes=shapes.of("classifier.linear.weight" if halved else "classifier.weight", 2)[0],
    )


def _peleenet(shapes: Shapes) -> PeleeNetArch:
    stem = shapes.convolution("features.stemblock.stem1.conv.weight")
    blocks = shapes.count(r"features\.denseblock(\d+)\.")
    layers = tuple(shapes.count(rf"features\.denseblock{b}\.denselayer(\d+)\.") for b in range(1, blocks + 1))
    k = 2 * shapes.convolution("features.denseblock1.denselayer1.branch1b.conv.weight")[0]
    wide = []
    for b, count in enumerate(layers, start=1):
        # Early layers are capped at half of their inputs; the last one shows the block's width best.
        inner, _ = shapes.convolution(f"features.denseblock{b}.denselayer{count}.branch1a.conv.weight")[:2]
        wide.append(max(1, -(-inner * 2 // k)))
    return PeleeNetArch(
        blocks=layers,
        k=k,
        bottleneck=tuple(wide),
        init=stem[0],
        channels=stem[1],
        classes=shapes.of("classifier.weight", 2)[0],
    )


def _dpn(shapes: Shapes) -> DpnArch:
    stem = shapes.convolution("features.conv1_1.conv.weight")
    small, b = stem[2] == 3, "features.conv2_1.c1x1_c1.weight" in shapes
    r = shapes.convolution("features.conv2_1.c1x1_a.conv.weight")[0]
    increments = []
    for stage in range(4):
        name = f"features.conv{stage + 2}_1"
        residual = 64 * 2**stage * (1 if small else 4)
        last = f"{name}.c1x1_c2.weight" if b else f"{name}.c1x1_c.conv.weight"
        increments.append(shapes.convolution(last)[0] - (0 if b else residual))
    counts = [shapes.count(rf"features\.conv{stage}_(\d+)\.") for stage in range(2, 6)]
    return DpnArch(
        small=small,
        b=b,
        init=stem[0],
        k_r=r,
        groups=r // shapes.convolution("features.conv2_1.c3x3_b.conv.weight")[1],
        k_sec=(counts[0], counts[1], counts[2], counts[3]),
        inc_sec=(increments[0], increments[1], increments[2], increments[3]),
        channels=stem[1],
        classes=shapes.convolution("classifier.weight")[0],
    )
