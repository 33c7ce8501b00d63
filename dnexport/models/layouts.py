"""The layouts in which people keep DenseNet-family checkpoints, as data.

A layout is known by marks (each must be found in some key) and brings its keys to this project's names, which are
torchvision's for DenseNet, the authors' for CondenseNet and PeleeNet, and timm's for DPN. Nothing is matched by
position or by shape: a key that no layout explains stays, and the strict loading refuses it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from dnexport.errors import CheckpointError


class Layout(NamedTuple):
    """One way of naming the parameters.

    Attributes:
        name: whose it is.
        family: of the networks it names.
        marks: regular expressions, each found in at least one key.
        renames: (regular expression, replacement), applied in order to every key.
        aside: keys that belong to the file but not to the network, with what they are.
        multi_label: its networks answer several questions at once (a sigmoid each), not one of several.
    """

    name: str
    family: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    aside: tuple[tuple[str, str], ...] = ()
    multi_label: bool = False


# torchvision 0.2 and earlier wrote denselayer1.norm.1.weight for denselayer1.norm1.weight.
_DOTS = (r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2")
_BLOCK = r"^features\.denseblock1\.denselayer1\."

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "CheXNet (arnoweng, zoogzog)",
        "densenet",
        (r"^densenet\d+\.features\.", r"^densenet\d+\.classifier\.0\.weight$"),
        ((r"^densenet\d+\.", ""), (r"^classifier\.0\.", "classifier."), _DOTS),
        multi_label=True,
    ),
    Layout(
        "MONAI",
        "densenet",
        (_BLOCK + r"layers\.norm1\.",),
        ((r"(denselayer\d+)\.layers\.", r"\1."), (r"^class_layers\.out\.", "classifier.")),
    ),
    Layout(
        "mmpretrain",
        "densenet",
        (r"^(backbone\.)?stages\.0\.block\.0\.norm1\.",),
        (
            (r"^backbone\.", ""),
            (r"^stem\.0\.", "features.conv0."),
            (r"^stem\.1\.", "features.norm0."),
            (r"^stages\.(\d+)\.block\.(\d+)\.", r"features.denseblock{\1}.denselayer{\2}."),
            (r"^transitions\.\d+\.0\.", "features.norm5."),
            (r"^transitions\.(\d+)\.", r"features.transition{\1}."),
            (r"^head\.fc\.", "classifier."),
        ),
    ),
    Layout(
        "torchxrayvision",
        "densenet",
        (_BLOCK, r"^op_threshs$"),
        (_DOTS,),
        ((r"^op_threshs$", "the operating points that torchxrayvision scales its sigmoid outputs by"),),
        multi_label=True,
    ),
    Layout(
        "efficient_densenet_pytorch",
        "densenet",
        (_BLOCK, r"^features\.norm_final\."),
        ((r"\.norm_final\.", ".norm5."),),
    ),
    Layout(
        "Cadene pretrainedmodels", "densenet", (_BLOCK, r"^last_linear\."), ((r"^last_linear\.", "classifier."), _DOTS)
    ),
    Layout("torchvision of 2017", "densenet", (_BLOCK + r"norm\.1\.",), (_DOTS,)),
    Layout("torchvision, timm", "densenet", (_BLOCK + r"norm1\.",)),
    Layout("CondenseNet, converted", "condensenet", (r"\.conv_1\.index$",)),
    Layout("CondenseNet, training", "condensenet", (r"\.conv_1\._mask$",)),
    Layout("PeleeNet", "peleenet", (r"^features\.stemblock\.",)),
    Layout("timm DPN", "dpn", (r"^features\.conv2_1\.c3x3_b\.",)),
)

_NUMBER = re.compile(r"\{(\d{1,6})\}")


def layout_from_keys(keys: Iterable[str], origin: str) -> Layout:
    """The first layout whose marks are all there.

    Raises:
        CheckpointError: none is, or a CondenseNet is converted in part.
    """
    names = list(keys)
    found = [layout for layout in LAYOUTS if all(any(re.search(mark, key) for key in names) for mark in layout.marks)]
    if len({layout.name for layout in found if layout.family == "condensenet"}) == 2:
        raise CheckpointError(
            f"checkpoint {origin} is a CondenseNet converted in part: it has both masks and indices",
            "convert it again from the trained one",
        )
    if not found:
        shown = ", ".join(sorted(names)[:3])
        raise CheckpointError(
            f"checkpoint {origin} has keys of no layout known here ({shown}, …)",
            f"known layouts: {', '.join(layout.name for layout in LAYOUTS)}",
        )
    return found[0]


def renamed(state: Mapping[str, Tensor], layout: Layout, origin: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict in this project's names, and what was set aside.

    Raises:
        CheckpointError: two keys come to one name.
    """
    result: dict[str, Tensor] = {}
    aside: list[str] = []
    for key, value in state.items():
        reason = next((reason for mark, reason in layout.aside if re.search(mark, key)), None)
        if reason is not None:
            aside.append(f"{key}: {reason}")
            continue
        name = _renamed(key, layout)
        if name in result:
            raise CheckpointError(f"checkpoint {origin} has two keys for {name}", "save the state dict of one network")
        result[name] = value
    return result, tuple(aside)


def _renamed(key: str, layout: Layout) -> str:
    for pattern, replacement in layout.renames:
        key = re.sub(pattern, replacement, key)
    # mmpretrain counts from zero, we from one.
    return _NUMBER.sub(lambda match: str(int(match[1]) + 1), key)
