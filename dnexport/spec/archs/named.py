"""The published architectures by name, and any other by its string form.

    densenet121        densenet(blocks=6-12-24-16,k=32)        dpn(k_r=96,k_sec=3-4-20-3,inc_sec=16-32-24-128)

`arch_from_text` and ``str(arch)`` are inverse.
"""

import re
from typing import Any, NamedTuple

from pydantic import ValidationError

from dnexport.errors import ArchError
from dnexport.spec.archs.condensenet import CondenseNetArch
from dnexport.spec.archs.densenet import DenseNetArch
from dnexport.spec.archs.dpn import DpnArch
from dnexport.spec.archs.family import FAMILIES, FamilyArch
from dnexport.spec.archs.peleenet import PeleeNetArch
from dnexport.spec.record import nearest, sentence_from_validation_error

_FORM = re.compile(r"(\w+)\((.*)\)")


class NamedArch(NamedTuple):
    """A published architecture: its record and what its authors measured."""

    arch: FamilyArch
    published_top1_error: float | None
    source: str

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.arch.channels, self.arch.input_size, self.arch.input_size

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.arch.macs(self.arch.input_size, self.arch.input_size)

    def document(self) -> dict[str, Any]:
        """An element of ``archs --json``, but for the name."""
        return {
            "parameters": self.arch.parameters,
            "macs": self.macs,
            "input": list(self.input),
            "published_top1_error": self.published_top1_error,
            "source": self.source,
        }


_TORCHVISION = "torchvision documentation, ImageNet-1k, one 224 crop"
_PAPER = "Huang et al., CVPR 2017, table 2, CIFAR-10 with augmentation (C10+)"
_CONDENSE = "ShichenLiu/CondenseNet README"
_PELEE = "Robert-JunWang/PeleeNet README, ImageNet-1k, one 224 crop"
_DPN = "timm results-imagenet.csv, ImageNet-1k, 224"


def _densenet(blocks: tuple[int, ...], k: int, init: int, error: float | None, source: str = _TORCHVISION) -> NamedArch:
    return NamedArch(DenseNetArch(blocks=blocks, k=k, init=init), error, source)


def _cifar(depth: int, k: int, error: float | None, source: str = _PAPER) -> NamedArch:
    """The basic form: 3 blocks of 3×3 convolutions, 16 channels after the stem, no compression."""
    blocks = ((depth - 4) // 3,) * 3
    arch = DenseNetArch(blocks=blocks, k=k, bottleneck=0, theta=1.0, stem="cifar", init=16, classes=10)
    return NamedArch(arch, error, source)


def _cifar_bc(depth: int, k: int, error: float | None, source: str = _PAPER) -> NamedArch:
    """The BC form: each layer is two convolutions, 2k channels after the stem, θ = 0.5."""
    return NamedArch(
        DenseNetArch(blocks=((depth - 4) // 6,) * 3, k=k, stem="cifar", init=2 * k, classes=10), error, source
    )


def _condensenet(groups: int, error: float) -> NamedArch:
    growth = (8, 16, 32, 64, 128)
    arch = CondenseNetArch(stages=(4, 6, 8, 10, 8), growth=growth, groups=groups, condense=groups)
    return NamedArch(arch, error, f"{_CONDENSE}, ImageNet-1k")


def _condensenet_cifar(stages: int, error: float, growth: tuple[int, int, int] = (8, 16, 32)) -> NamedArch:
    arch = CondenseNetArch(stages=(stages,) * 3, growth=growth, stem="cifar", classes=10)
    return NamedArch(arch, error, f"{_CONDENSE}, CIFAR-10")


def _dpn(error: float, **fields: Any) -> NamedArch:
    return NamedArch(DpnArch(**fields), error, _DPN)


_DPN68 = {"small": True, "init": 10, "k_r": 128, "k_sec": (3, 4, 12, 3), "inc_sec": (16, 32, 32, 64)}

NAMED: dict[str, NamedArch] = {
    "densenet121": _densenet((6, 12, 24, 16), 32, 64, 25.566),
    "densenet161": _densenet((6, 12, 36, 24), 48, 96, 22.862),
    "densenet169": _densenet((6, 12, 32, 32), 32, 64, 24.400),
    "densenet201": _densenet((6, 12, 48, 32), 32, 64, 23.104),
    "densenet264": _densenet((6, 12, 64, 48), 32, 64, 22.1, "liuzhuang13/DenseNet README, ImageNet-1k, one crop"),
    "densenet-40-12": _cifar(40, 12, 5.24),
    "densenet-100-12": _cifar(100, 12, 4.10),
    "densenet-100-24": _cifar(100, 24, 3.74),
    "densenet-bc-40-12": _cifar_bc(40, 12, None, "the smallest BC form; not in the paper"),
    "densenet-bc-100-12": _cifar_bc(100, 12, 4.51),
    "densenet-bc-250-24": _cifar_bc(250, 24, 3.62),
    "densenet-bc-190-40": _cifar_bc(190, 40, 3.46),
    "condensenet-c4": _condensenet(4, 26.2),
    "condensenet-c8": _condensenet(8, 29.0),
    "condensenet-50": _condensenet_cifar(8, 6.22),
    "condensenet-74": _condensenet_cifar(12, 5.28),
    "condensenet-86": _condensenet_cifar(14, 5.06),
    "condensenet-98": _condensenet_cifar(16, 4.83),
    "condensenet-110": _condensenet_cifar(18, 4.63),
    "condensenet-122": _condensenet_cifar(20, 4.48),
    "condensenet-182": _condensenet_cifar(30, 3.76, (12, 24, 48)),
    "peleenet": NamedArch(PeleeNetArch(), 27.4, _PELEE),
    "dpn68": _dpn(23.696, **_DPN68),
    "dpn68b": _dpn(22.506, b=True, **_DPN68),
    "dpn92": _dpn(19.968),
    "dpn98": _dpn(20.336, init=96, k_r=160, groups=40, k_sec=(3, 6, 20, 3), inc_sec=(16, 32, 32, 128)),
    "dpn107": _dpn(19.834, init=128, k_r=200, groups=50, k_sec=(4, 8, 20, 3), inc_sec=(20, 64, 64, 128)),
    "dpn131": _dpn(20.164, init=128, k_r=160, groups=40, k_sec=(4, 8, 28, 3), inc_sec=(16, 32, 32, 128)),
}


def arch_from_text(text: str) -> FamilyArch:
    """A named architecture, or the string form of any; the prefix ``densenet-`` of the CIFAR forms may be left out.

    Raises:
        ArchError: no such name, family or field, or an impossible value.
    """
    match = _FORM.fullmatch(text.strip())
    return _arch_from_form(text, match[1].lower(), match[2]) if match else named_arch(text).arch


def named_arch(name: str) -> NamedArch:
    """Look an architecture up by name.

    Raises:
        ArchError: no architecture has that name.
    """
    key = name.strip().lower()
    found = NAMED.get(key) or NAMED.get(f"densenet-{key}")
    if found is None:
        raise ArchError(f"unknown arch '{name}'", nearest(key, NAMED) + " ('dnexport archs' lists them all)")
    return found


def _arch_from_form(text: str, family: str, body: str) -> FamilyArch:
    record = FAMILIES.get(family)
    if record is None:
        raise ArchError(f"arch '{text}' names an unknown family '{family}'", nearest(family, FAMILIES))
    fields: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in body.split(","))):
        name, equals, value = part.partition("=")
        if not equals or name in fields or name == "family":
            raise ArchError(f"arch '{text}' has '{part}' where one name=value belongs", f"write {family}(name=value,…)")
        fields[name] = value.split("-") if _is_tuple(record, name) else value
    try:
        return record.model_validate(fields)
    except ValidationError as exc:
        what, remedy = sentence_from_validation_error(exc, record.model_fields)
        raise ArchError(f"arch '{text}': {what}", remedy) from exc


def _is_tuple(record: type[FamilyArch], name: str) -> bool:
    field = record.model_fields.get(name)
    return field is not None and str(field.annotation).startswith("tuple")
