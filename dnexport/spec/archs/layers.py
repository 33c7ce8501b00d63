"""The layers that an architecture's arithmetic is made of, and what all families have in common."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import Field

from dnexport.spec.preprocess import IMAGENET, Preprocess
from dnexport.spec.record import Record

# A hundred times the largest layer of any published network of the family.
LARGEST_LAYER = 500_000_000
LARGEST_TABLE = 10_000


class Convolution(NamedTuple):
    """A convolution without bias and the pixels of its output."""

    name: str
    channels_in: int
    channels_out: int
    kernel: int
    height: int
    width: int
    groups: int = 1

    @property
    def parameters(self) -> int:
        """Its weights."""
        return self.channels_in // self.groups * self.channels_out * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.parameters * self.height * self.width


class Norm(NamedTuple):
    """A batch norm: γ and β."""

    channels: int
    macs: int = 0

    @property
    def parameters(self) -> int:
        """Two a channel."""
        return 2 * self.channels


class Head(NamedTuple):
    """The classifier, with bias."""

    features: int
    classes: int

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return (self.features + 1) * self.classes

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.features * self.classes


Layer = Convolution | Norm | Head


class ArchRecord(Record):
    """What every architecture states.

    Attributes:
        dropout: probability of dropping an output in training.
        classes: outputs of the classifier.
        channels: planes of the input image.
    """

    dropout: float = Field(default=0.0, ge=0, lt=1)
    classes: int = Field(default=1000, ge=1)
    channels: int = Field(default=3, ge=1)

    def check_layers(self) -> None:
        """Refuse a table that no network can have; called when the family's own rules hold.

        Raises:
            ValueError: a convolution without channels, or more than a machine could allocate.
        """
        if sum(sum(value) for value in self.__dict__.values() if isinstance(value, tuple)) > LARGEST_TABLE:
            raise ValueError("the table has more layers or channels than any network of the family")
        for layer in self.layers(self.input_size, self.input_size):
            if isinstance(layer, Convolution) and min(layer.channels_in, layer.channels_out) < 1:
                raise ValueError(f"convolution {layer.name} would have {layer.channels_out} channels")
            if layer.parameters > LARGEST_LAYER:
                raise ValueError(f"a layer would have {layer.parameters:,} parameters, more than {LARGEST_LAYER:,}")

    def layers(self, height: int, width: int) -> Iterator[Layer]:
        """All layers with parameters in the order of execution, for an input of ``height`` × ``width`` pixels."""
        raise NotImplementedError

    @property
    def smallest_input(self) -> int:
        """Least height and width for which every layer still has an output pixel."""
        raise NotImplementedError

    def refusal(self, height: int, width: int) -> str | None:
        """Why the network cannot take an input of that size; None where it can."""
        least = self.smallest_input
        return f"the arch needs at least {least} pixels each way" if min(height, width) < least else None

    @property
    def input_size(self) -> int:
        """Height and width that the network was designed for."""
        return 224

    @property
    def preprocess(self) -> Preprocess:
        """What its authors' evaluation does, where nothing else is known."""
        return IMAGENET

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(layer.parameters for layer in self.layers(self.input_size, self.input_size))

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds of convolutions and classifier for one image; batch norm and pooling not counted."""
        return sum(layer.macs for layer in self.layers(height, width))

    def same_body(self, other: "ArchRecord") -> bool:
        """Whether the two differ in nothing but input channels, classes and dropout."""
        ends: dict[str, Any] = {"channels": self.channels, "classes": self.classes, "dropout": self.dropout}
        return self == other.model_copy(update=ends)

    def __str__(self) -> str:
        """The string form, which `named.arch_from_text` reads back: ``densenet(blocks=6-12,k=32)``."""
        said = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "family" and value != field.default:
                said.append(f"{name}={'-'.join(map(str, value)) if isinstance(value, tuple) else str(value).lower()}")
        return f"{type(self).model_fields['family'].default}({','.join(said)})"


def halved(pixels: int) -> int:
    """Output pixels of a stride of two with padding to the same size."""
    return (pixels + 1) // 2
