"""He initialisation (He et al. 2015), as in DenseNet's section 4.2: the same for every family."""

from torch import nn


def he_initialise(network: nn.Module) -> None:
    """Draw the convolutions' weights anew and set every bias of a convolution or classifier to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
