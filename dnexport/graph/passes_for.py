"""The only list of which graph gets which passes."""

from dnexport.graph.cast_float16 import CastFloat16
from dnexport.graph.contract import Pass
from dnexport.graph.embed_preprocess import EmbedPreprocess
from dnexport.graph.fold_batchnorm import FoldBatchNorm
from dnexport.graph.nonzero_bias import NonzeroBias
from dnexport.graph.pad_groups import PadGroups
from dnexport.graph.pool_before_conv import PoolBeforeConv
from dnexport.graph.unit_batchnorm import UnitBatchNorm
from dnexport.graph.unsigned_activations import UnsignedActivations
from dnexport.spec.precision import Precision
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.target import Target


def canonical_passes() -> tuple[Pass, ...]:
    """From an export to the canonical FP32 graph; exact up to rounding."""
    return (FoldBatchNorm(), PoolBeforeConv())


def passes_for(precision: Precision, target: Target, pixels: Preprocess | None = None) -> tuple[Pass, ...]:
    """The lowering: from the canonical graph (with Q/DQ for INT8) to the typed graph of a target.

    With ``pixels`` the graph takes uint8 pixels and does that preprocessing's arithmetic itself. CPU runtimes choose
    their own arithmetic, so they get the FP32 body, and unsigned activations, which their kernels are made for;
    OpenVINO also gets what its defects need.
    """
    first = (EmbedPreprocess(pixels),) if pixels is not None else ()
    return (*first, *_typing(precision, target))


def _typing(precision: Precision, target: Target) -> tuple[Pass, ...]:
    if target.device == "cuda":
        return () if precision is Precision.FP32 else (UnitBatchNorm(), CastFloat16())
    if precision is not Precision.INT8:
        return ()
    return (
        (UnsignedActivations(), NonzeroBias(), PadGroups())
        if target.runtime == "openvino"
        else (UnsignedActivations(),)
    )
