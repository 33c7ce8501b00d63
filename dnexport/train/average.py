"""The moving average of the weights (Polyak, Juditsky 1992), with PyTorch's own bookkeeping."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged_model(module: nn.Module, decay: float) -> AveragedModel:
    """A copy whose weights and batch-norm statistics follow ``module``'s.

    The decay rises from 0 to ``decay`` as (1 + n) / (10 + n), so that the random weights of the start are forgotten.
    """

    @torch.no_grad()
    def average(averages: _Tensors, current: _Tensors, updates: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        if torch.is_floating_point(averages[0]):
            torch._foreach_lerp_(averages, current, share)
        else:  # the count of batches
            torch._foreach_copy_(averages, current)

    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)
