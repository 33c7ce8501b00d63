"""How a network is trained, as data; and what a checkpoint says of itself."""

from typing import Literal

from pydantic import Field

from dnexport.spec.archs import Arch
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.record import Record


class TrainingRecipe(Record):
    """SGD with Nesterov momentum and one cycle of the learning rate.

    Attributes:
        epochs: passes over the training part.
        batch: images a step.
        learning_rate: the highest of the cycle.
        momentum: Nesterov.
        weight_decay: L2, on all parameters, as in the paper.
        label_smoothing: share of the target spread over all classes.
        shift: pixels by which a picture is padded and cropped at random, 0 for none.
        mirror: flip half of the pictures left to right.
        seed: of initialisation, order and augmentation.
        memory_efficient: compute a DenseNet's concatenations again in the backward pass instead of keeping them.
        precision: ``auto`` is bf16 autocast where the processor has it, else fp32.
    """

    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    shift: int = Field(default=2, ge=0)
    mirror: bool = False
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    memory_efficient: bool = False


class CheckpointMetadata(Record):
    """What a checkpoint of ours says of itself, under the key ``dnexport`` of a safetensors file.

    Attributes:
        arch: the network.
        arch_name: its name, where it has one.
        preprocess: of its input.
        class_names: one a class.
        data: what it was trained on.
        training: how.
        test_top1: of the last weights on the held-out part, as a share.
        test_images: size of that part.
    """

    arch: Arch
    arch_name: str | None
    preprocess: Preprocess
    class_names: tuple[str, ...]
    data: str
    training: TrainingRecipe
    test_top1: float = Field(ge=0, le=1)
    test_images: int
