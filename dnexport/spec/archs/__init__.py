"""Architectures as data, one family a file: channels, parameters and multiply-adds by arithmetic; names, string forms.

The arithmetic is checked against the built modules in the tests.
"""

from dnexport.spec.archs.condensenet import CondenseNetArch
from dnexport.spec.archs.densenet import DenseNetArch
from dnexport.spec.archs.dpn import DpnArch
from dnexport.spec.archs.family import AnyArch, Arch, FamilyArch, TrainableArch
from dnexport.spec.archs.named import NAMED, NamedArch, arch_from_text, named_arch
from dnexport.spec.archs.opaque import GraphArch, ModuleArch
from dnexport.spec.archs.peleenet import PeleeNetArch

__all__ = [
    "NAMED",
    "AnyArch",
    "Arch",
    "CondenseNetArch",
    "DenseNetArch",
    "DpnArch",
    "FamilyArch",
    "GraphArch",
    "ModuleArch",
    "NamedArch",
    "PeleeNetArch",
    "TrainableArch",
    "arch_from_text",
    "named_arch",
]
