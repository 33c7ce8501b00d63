"""Restate each BatchNormalization so that half precision keeps it.

    γ·(x − μ)/√(σ²+ε) + β  =  s·(x − 0)/√(1+0) + (β − s·μ),   s = γ/√(σ²+ε)

Rounding μ, σ² and γ to FP16 one by one would lose digits three times and can underflow σ² (smallest normal 6.1e-5);
s and β − s·μ, computed in double precision, are rounded once.
"""

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.values import constant_array, replace_constant


class UnitBatchNorm:
    """Batch norms with mean 0, variance 1 and ε 0."""

    name = "unit_batchnorm"

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        reasons: list[str] = []
        for node in model.graph:
            if node.op_type != "BatchNormalization":
                continue
            arrays = [constant_array(value) for value in node.inputs[1:5]]
            if any(array is None for array in arrays):
                reasons.append(f"{node.name}: its statistics are not constants")
                continue
            gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in arrays)
            epsilon = node.attributes.get_float("epsilon", 1e-5)
            if epsilon == 0 and not mean.any() and (variance == 1).all():
                continue
            scale = gamma / np.sqrt(variance + epsilon)
            restated = {
                "scale": scale,
                "bias": beta - scale * mean,
                "mean": np.zeros_like(mean),
                "var": np.ones_like(mean),
            }
            for index, (name, array) in enumerate(restated.items(), 1):
                replace_constant(model, node, index, f"{node.name}_unit_{name}", array.astype(np.float32))
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
            modified = True
        return PassResult(model, modified, tuple(reasons))
