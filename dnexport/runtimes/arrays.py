"""Array types of the runtimes, and small functions that all of them need."""

import os

import numpy as np
from jaxtyping import Float32

Logits = Float32[np.ndarray, "batch classes"]
# Logits of one of several batches, which need not be of one size.
LogitsPart = Float32[np.ndarray, "_ classes"]


def whole_batches(images: np.ndarray, batch: int) -> np.ndarray:
    """The images, repeated from the first on until they fill whole batches."""
    return np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))


def available_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
