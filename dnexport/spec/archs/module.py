"""Any other network, by the function that makes it."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from dnexport.spec.archs.layers import ArchRecord, Layer


class ModuleArch(ArchRecord):
    """A ``torch.nn.Module`` of the user's own; its layers are known to nobody here.

    Attributes:
        factory: ``package.module:callable``, which makes it without arguments.
        code: SHA-256 of the source files of its classes and of the factory.
        counted: trainable parameters.
    """

    family: Literal["module"] = "module"
    factory: str
    code: str
    counted: int = Field(ge=0)

    def layers(self, height: int, width: int) -> Iterator[Layer]:
        """None that the arithmetic could know."""
        return iter(())

    @property
    def smallest_input(self) -> int:
        """One: what the network can take shows when it runs."""
        return 1

    @property
    def parameters(self) -> int:
        """As counted in the module."""
        return self.counted

    def macs(self, height: int, width: int) -> int:
        """Unknown.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"the multiply-adds of {self.factory} are not known")
