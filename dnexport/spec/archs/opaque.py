"""Networks whose layers nobody here knows: a module of the user's, or a graph that another exporter wrote."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from dnexport.spec.archs.layers import ArchRecord, Layer


class OpaqueArch(ArchRecord):
    """What can be said of any network.

    Attributes:
        counted: parameters.
    """

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
        """As counted."""
        return self.counted

    def macs(self, height: int, width: int) -> int:
        """Unknown.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the multiply-adds of this network are not known")


class ModuleArch(OpaqueArch):
    """A ``torch.nn.Module`` of the user's own.

    Attributes:
        factory: ``package.module:callable``, which makes it without arguments.
        code: SHA-256 of the source files of its classes and of the factory.
    """

    family: Literal["module"] = "module"
    factory: str
    code: str


class GraphArch(OpaqueArch):
    """An ONNX graph that another exporter wrote.

    Attributes:
        file: its name, without the folder.
    """

    family: Literal["graph"] = "graph"
    file: str
