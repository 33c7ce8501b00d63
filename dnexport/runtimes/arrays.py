"""Array types of the runtimes, and one small function that all of them need."""

import os

import numpy as np
from jaxtyping import Float32

Logits = Float32[np.ndarray, "batch classes"]


def available_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
