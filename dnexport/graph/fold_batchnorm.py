"""Fold a BatchNormalization into the convolution before it.

    γ·(W∗x + b − μ)/√(σ²+ε) + β  =  (s·W)∗x + (s·(b − μ) + β),   s = γ/√(σ²+ε)

onnxscript's rules do it. In a DenseNet norm0 and every norm2 fold; norm1, the transitions' norms and norm5 follow a
concatenation, not a convolution, and stay: each is declined with that reason.
"""

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

from dnexport.graph.contract import PassResult
from dnexport.graph.values import remove_unused


class FoldBatchNorm:
    """Fold what folds, and say what does not."""

    name = "fold_batchnorm"

    def __call__(self, model: ir.Model) -> PassResult:
        before = _batch_norms(model)
        if any(_producer(norm) == "Conv" for norm in before):
            RewriteRuleSet([fuse_batchnorm_into_conv_rule]).apply_to_model(model)
        left = _batch_norms(model)
        if len(left) < len(before):
            remove_unused(model)  # the constants of what is folded
        reasons = tuple(f"{norm.name}: {_obstacle(norm)}" for norm in left)
        return PassResult(model, len(left) < len(before), reasons)


def _batch_norms(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "BatchNormalization"]


def _producer(node: ir.Node) -> str:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    return producer.op_type if producer is not None else "a graph input"


def _obstacle(norm: ir.Node) -> str:
    if (producer := _producer(norm)) != "Conv":
        return f"follows {producer}, not a convolution"
    value = norm.inputs[0]
    if value is not None and len(value.uses()) > 1:
        return "follows a convolution that another node reads too"
    return "follows a convolution whose weights are not constants of its own"
