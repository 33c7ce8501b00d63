"""Any architecture: of a family, a module of the user's or a foreign graph, told apart by the field ``family``."""

from typing import Annotated

from pydantic import Field

from dnexport.spec.archs.condensenet import CondenseNetArch
from dnexport.spec.archs.densenet import DenseNetArch
from dnexport.spec.archs.dpn import DpnArch
from dnexport.spec.archs.opaque import GraphArch, ModuleArch
from dnexport.spec.archs.peleenet import PeleeNetArch

FamilyArch = DenseNetArch | CondenseNetArch | PeleeNetArch | DpnArch
AnyArch = FamilyArch | ModuleArch | GraphArch
Arch = Annotated[AnyArch, Field(discriminator="family")]
TrainableArch = Annotated[FamilyArch, Field(discriminator="family")]
FAMILIES: dict[str, type[FamilyArch]] = {
    "densenet": DenseNetArch,
    "condensenet": CondenseNetArch,
    "peleenet": PeleeNetArch,
    "dpn": DpnArch,
}
