"""Add to each convolution's bias what quantization takes from the mean of its outputs.

Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, section 4.2, with means
that are measured (`calibrate.rounding`) instead of derived.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.values import add_to_bias, name_of


class CorrectBias:
    """Add corrections to biases.

    Args:
        corrections: float32 [outputs] by the name of the convolution's output.
    """

    name = "correct_bias"

    def __init__(self, corrections: Mapping[str, np.ndarray]) -> None:
        self.corrections = corrections

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        for conv in [node for node in model.graph if node.op_type == "Conv"]:
            name = name_of(conv.outputs[0])
            if name not in self.corrections:
                continue
            add_to_bias(model, conv, f"{name}_corrected_bias", self.corrections[name])
            modified = True
        return PassResult(model, modified)
