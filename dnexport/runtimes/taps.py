"""Give a graph more outputs without ONNX tooling, and keep of each what fits into a bundle.

Protocol buffers merge concatenated messages, and their repeated fields grow, so what is to be added is appended:
https://protobuf.dev/programming-guides/encoding/#last-one-wins. Field numbers are those of onnx.proto.
"""

from collections.abc import Sequence

import numpy as np

_MODEL_GRAPH, _GRAPH_OUTPUT, _VALUE_NAME = 7, 12, 1
_LENGTH_DELIMITED = 2
_VALUES = 2048


def tapped(graph: bytes, names: Sequence[str]) -> bytes:
    """A serialized ONNX model with values of these names as further outputs."""
    outputs = b"".join(_field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode())) for name in names)
    return graph + _field(_MODEL_GRAPH, outputs)


def sampled(values: np.ndarray) -> np.ndarray:
    """At most 2,048 values an image, evenly spread over channels and places: float32 [images, values]."""
    flat = values.reshape(len(values), -1)
    # An odd step meets every channel and column, also where both are powers of two.
    step = max(1, flat.shape[1] // _VALUES) | 1
    return np.ascontiguousarray(flat[:, ::step], np.float32)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
