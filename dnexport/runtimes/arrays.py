"""Array types of the runtimes, and small functions that all of them need."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from dnexport.errors import BadInput
from dnexport.spec.preprocess import InputType

Logits = Float32[np.ndarray, "batch classes"]
# Logits of one of several batches, which need not be of one size.
LogitsPart = Float32[np.ndarray, "_ classes"]


def whole_batches(images: np.ndarray, batch: int) -> np.ndarray:
    """The images, repeated from the first on until they fill whole batches."""
    return np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))


def check_fed(images: np.ndarray, input_type: InputType, image: Sequence[int], target: str) -> None:
    """Refuse a batch that an engine does not take.

    Args:
        images: the batch.
        input_type: what the engine takes.
        image: the shape of one image as the engine takes it.
        target: of the engine, for the message.

    Raises:
        BadInput: another type or shape.
    """
    if images.dtype != input_type or images.shape[1:] != tuple(image):
        raise BadInput(
            f"{target} takes {input_type} [batch, {', '.join(map(str, image))}] and got {images.dtype}"
            f" {list(images.shape)}",
            "give images as the bundle's preprocess makes them; Bundle.session() does",
        )


def available_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
