"""The small network that many tests share."""

import numpy as np

from dnexport.data.datasets import synthetic
from dnexport.spec.arch import DenseNetArch
from dnexport.spec.preprocess import Preprocess

TINY = DenseNetArch(blocks=(2, 2), k=4, stem="cifar", init=8, classes=5)
TINY_PREPROCESS = Preprocess(input_size=(16, 16), resize=None)


def tiny_pixels(count: int, seed: int = 0) -> np.ndarray:
    return synthetic(count, TINY_PREPROCESS, seed).pixels(TINY_PREPROCESS)
