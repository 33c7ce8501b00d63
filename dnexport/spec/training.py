"""How a network is trained, as data: the papers' recipes and a short one; and what a checkpoint says of itself."""

from typing import Any, Literal

from pydantic import Field, model_validator

from dnexport.spec.archs import TrainableArch
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.record import Record


class TrainingRecipe(Record):
    """SGD with Nesterov momentum, its learning rate, its augmentation, and how it is executed.

    Attributes:
        epochs: passes over the training part.
        batch: images a step, over all processes.
        accumulate: micro-batches a step in each process; the gradients are those of the whole batch, the batch-norm
            statistics a micro-batch's.
        learning_rate: the highest.
        schedule: ``steps`` divides the learning rate by 10 at each milestone, ``cosine`` lets it fall along half a
            cosine, ``one_cycle`` raises it over a fifth of the steps before.
        milestones: of ``steps``, as shares of the training.
        momentum: Nesterov.
        weight_decay: L2, on all parameters, as in the paper.
        label_smoothing: share of the target spread over all classes.
        ema: decay of the moving average of the weights that is tested and kept; 0 keeps the last weights.
        dropout: of every dense layer; None is what the arch says.
        lasso: weight of CondenseNet's group lasso in the loss.
        shift: pixels by which a picture is padded and cropped at random, 0 for none.
        border: what pads it: its ``edge``, or the ``mean`` colour.
        mirror: flip half of the pictures left to right.
        resized_crop: cut 8–100 % of the area at an aspect ratio of 3/4 to 4/3 and resize it (Szegedy et al. 2015).
        freeze: names of parts (``features.conv0``, ``features.denseblock1`` …) that keep their weights and statistics.
        seed: of initialisation, order, augmentation and dropout; a new head is always the same.
        precision: ``auto`` is bf16 autocast where the processor has it, else fp32.
        memory_efficient: compute a DenseNet's concatenations again in the backward pass instead of keeping them.
        compile: with ``torch.compile``.
        channels_last: NHWC in memory.
        deterministic: only algorithms that give the same bits each time.
        test_every: epochs between tests on the held-out part; the last epoch is always tested.
    """

    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=64, ge=2)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=0.1, gt=0)
    schedule: Literal["steps", "cosine", "one_cycle"] = "one_cycle"
    milestones: tuple[float, ...] = ()
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    lasso: float = Field(default=0.0, ge=0)
    shift: int = Field(default=0, ge=0)
    border: Literal["edge", "mean"] = "mean"
    mirror: bool = False
    resized_crop: bool = False
    freeze: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_efficient: bool = False
    compile: bool = False
    channels_last: bool = True
    deterministic: bool = False
    test_every: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "TrainingRecipe":
        if list(self.milestones) != sorted(set(self.milestones)) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError("milestones rise, each between 0 and 1")
        if bool(self.milestones) != (self.schedule == "steps"):
            raise ValueError("schedule 'steps' has milestones, and no other has")
        if self.resized_crop and self.shift:
            raise ValueError("resized_crop and shift exclude each other")
        return self


def _recipe(**values: Any) -> TrainingRecipe:
    return TrainingRecipe.model_validate(values)


_PAPER: dict[str, Any] = {"schedule": "steps", "milestones": (0.5, 0.75), "batch": 64, "epochs": 300}
_AUGMENTED: dict[str, Any] = {"shift": 4, "mirror": True}
# DenseNet's: Huang et al., CVPR 2017, sections 4.1 and 4.2; CondenseNet's: Huang et al., CVPR 2018, sections 4.1 and
# 4.2. Dropout 0.2 wherever there is no augmentation.
TRAINING_RECIPES: dict[str, TrainingRecipe] = {
    "cifar": _recipe(**_PAPER, dropout=0.2),
    "cifar+": _recipe(**_PAPER, **_AUGMENTED, dropout=0.0),
    "svhn": _recipe(**_PAPER | {"epochs": 40}, dropout=0.2),
    "imagenet": _recipe(
        schedule="steps", milestones=(1 / 3, 2 / 3), batch=256, epochs=90, resized_crop=True, mirror=True, dropout=0.0
    ),
    "condensenet-cifar+": _recipe(schedule="cosine", batch=64, epochs=300, **_AUGMENTED),
    "condensenet-imagenet": _recipe(
        schedule="cosine", batch=256, epochs=120, resized_crop=True, mirror=True, lasso=1e-5
    ),
    # This project's own, for an hour rather than a day: one cycle (Smith 2018), label smoothing, averaged weights.
    "short": _recipe(epochs=25, label_smoothing=0.1, ema=0.998, **_AUGMENTED),
    "digits": _recipe(epochs=10, shift=2, border="edge"),
}


class EpochRow(Record):
    """What one epoch showed.

    Attributes:
        epoch: from 1.
        loss: mean over the epoch's training images.
        train_top1: of the training images as they were augmented, while the weights changed.
        test_top1: of the weights that would be kept, on the held-out part; None where the epoch was not tested.
        learning_rate: of the last step.
        images_per_s: trained, over all processes, testing not counted.
        seconds: of training, testing not counted.
    """

    epoch: int
    loss: float
    train_top1: float
    test_top1: float | None
    learning_rate: float
    images_per_s: float
    seconds: float


class CheckpointMetadata(Record):
    """What a checkpoint of ours says of itself, under the key ``dnexport`` of a safetensors file.

    Attributes:
        arch: the network.
        arch_name: its name, where it has one.
        preprocess: of its input.
        class_names: one a class.
        data: what it was trained on.
        training: how.
        test_top1: of the kept weights (the last, or their moving average) on the held-out part, as a share; never the
            best seen.
        test_images: size of that part.
        identity: digest of what a training that goes on shares: network, recipe, data.
    """

    arch: TrainableArch
    arch_name: str | None
    preprocess: Preprocess
    class_names: tuple[str, ...]
    data: str
    training: TrainingRecipe
    test_top1: float = Field(ge=0, le=1)
    test_images: int
    identity: str | None = None
