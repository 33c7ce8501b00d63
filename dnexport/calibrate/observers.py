"""Observers turn batches into ranges, one tensor each, in memory that does not grow with the number of images."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from dnexport.errors import DataError
from dnexport.spec.quantization import ObserverName, Range


@runtime_checkable
class Observer(Protocol):
    """Sees the least and greatest value of one tensor for each image of a batch."""

    def update(self, lows: Float32[np.ndarray, " batch"], highs: Float32[np.ndarray, " batch"]) -> None:
        """Take one batch."""

    def range(self, tensor: str) -> Range:
        """What was seen; ``tensor`` is named in errors."""


class MinMax:
    """The range of all values seen: no clipping, one outlier decides."""

    def __init__(self) -> None:
        self._lo, self._hi = np.inf, -np.inf

    def update(self, lows: Float32[np.ndarray, " batch"], highs: Float32[np.ndarray, " batch"]) -> None:
        # fmin and fmax would hide a NaN; min and max carry it to `range`.
        self._lo, self._hi = np.minimum(self._lo, lows.min()), np.maximum(self._hi, highs.max())

    def range(self, tensor: str) -> Range:
        """The range.

        Raises:
            DataError: nothing was seen, or a value was not finite.
        """
        if not np.isfinite([self._lo, self._hi]).all():
            raise DataError(
                f"activation '{tensor}' is not finite on the calibration images", "check the weights and the images"
            )
        return Range(lo=float(self._lo), hi=float(self._hi))


def observer(name: ObserverName) -> Observer:
    """An observer by its name in a recipe."""
    return {"minmax": MinMax}[name]()
