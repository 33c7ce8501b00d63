"""Any architecture: one of the families, told apart by the field ``family``."""

from typing import Annotated

from pydantic import Field

from dnexport.spec.archs.condensenet import CondenseNetArch
from dnexport.spec.archs.densenet import DenseNetArch
from dnexport.spec.archs.dpn import DpnArch
from dnexport.spec.archs.peleenet import PeleeNetArch

AnyArch = DenseNetArch | CondenseNetArch | PeleeNetArch | DpnArch
Arch = Annotated[AnyArch, Field(discriminator="family")]
FAMILIES: dict[str, type[AnyArch]] = {
    "densenet": DenseNetArch,
    "condensenet": CondenseNetArch,
    "peleenet": PeleeNetArch,
    "dpn": DpnArch,
}
