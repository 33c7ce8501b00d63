"""CondenseNet, in the form it is trained in and the form it is deployed in.

Huang, Liu, van der Maaten, Weinberger: *CondenseNet: An Efficient DenseNet using Learned Group Convolutions*,
CVPR 2018.

Training. A learned group convolution is a full 1×1 convolution, output o belonging to group o mod G. In C−1 condensing
stages each group drops the 1/C of its inputs with the smallest L1 norm over the group's outputs; the mask remembers.
The group lasso pushes the outputs of a group to agree on their inputs:

    Σ_groups Σ_inputs √(Σ_outputs of the group W²)

Deployment. The inputs a group kept are gathered by index, the convolution is an ordinary one with G groups, and a
channel shuffle restores the order of the outputs. The logits are equal.

Parameter names are those of the authors' code, in both forms.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnexport.models.initialise import he_initialise
from dnexport.spec.archs import CondenseNetArch


class LearnedGroupConv(nn.Module):
    """BN-ReLU-Conv1×1 whose groups learn which inputs to drop."""

    _count: Tensor
    _stage: Tensor
    _mask: Tensor

    def __init__(self, channels: int, out: int, arch: CondenseNetArch) -> None:
        super().__init__()
        self.groups, self.condense = arch.groups, arch.condense
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(arch.dropout)
        self.conv = nn.Conv2d(channels, out, kernel_size=1, bias=False)
        self.register_buffer("_count", torch.zeros(1))
        self.register_buffer("_stage", torch.zeros(1))
        self.register_buffer("_mask", torch.ones(self.conv.weight.size()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.relu(self.norm(x)))
        y: Tensor = nn.functional.conv2d(x, self.conv.weight * self._mask)
        return y

    def lasso(self) -> Tensor:
        """The group lasso of the weights that are left."""
        grouped = self._grouped((self.conv.weight * self._mask) ** 2)
        return (grouped.sum(1) + 1e-12).sqrt().sum()

    def condense_once(self) -> None:
        """Let each group drop the 1/C of all inputs that matter least to it: one condensing stage."""
        inputs = self.conv.in_channels
        drop = inputs // self.condense
        strength = self._grouped((self.conv.weight * self._mask).abs()).sum(1)
        already = int(self._stage.item()) * drop
        mask = self._grouped(self._mask)
        for group in range(self.groups):
            order = strength[group].argsort()
            mask[group, :, order[already : already + drop]] = 0
        # Back from [group, output of the group, input] to output = group + G · (output of the group).
        self._mask.copy_(mask.transpose(0, 1).reshape(self._mask.shape))
        self._stage += 1

    def condense_until(self, stage: int) -> None:
        """Go through the condensing stages up to ``stage``, of C−1."""
        while int(self._stage.item()) < min(stage, self.condense - 1):
            self.condense_once()

    def take_mask(self, other: "LearnedGroupConv") -> None:
        """Drop the same inputs as ``other``."""
        self._mask.copy_(other._mask)
        self._stage.copy_(other._stage)

    def kept(self) -> list[Tensor]:
        """For each group the indices of the inputs it kept, ascending."""
        return [row.any(0).nonzero().flatten() for row in self._grouped(self._mask)]

    def _grouped(self, weight: Tensor) -> Tensor:
        """[out, in, 1, 1] as [group, output of the group, input]."""
        out, inputs = weight.shape[:2]
        return weight.reshape(out // self.groups, self.groups, inputs).transpose(0, 1).contiguous()


class CondensedConv(nn.Module):
    """Gather-BN-ReLU-grouped Conv1×1-shuffle: the deployed form of a learned group convolution."""

    index: Tensor

    def __init__(self, channels: int, out: int, arch: CondenseNetArch) -> None:
        super().__init__()
        self.groups = arch.groups
        gathered = arch.gathered(channels)
        self.register_buffer("index", torch.arange(gathered) % channels)
        self.norm = nn.BatchNorm2d(gathered)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(gathered, out, kernel_size=1, groups=arch.groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.relu(self.norm(torch.index_select(x, 1, self.index))))
        batch, channels, height, width = x.shape
        shuffled = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return shuffled.reshape(batch, channels, height, width)


class CondensedLinear(nn.Module):
    """A classifier that reads half of the features."""

    index: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features // 2, classes)
        self.register_buffer("index", torch.arange(features - features // 2, features))

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.linear(torch.index_select(x, 1, self.index))
        return logits


class DenseLayer(nn.Module):
    """The concatenation so far, then growth new channels."""

    def __init__(self, channels: int, growth: int, arch: CondenseNetArch) -> None:
        super().__init__()
        inner = arch.bottleneck * growth
        form = CondensedConv if arch.form == "converted" else LearnedGroupConv
        self.conv_1 = form(channels, inner, arch)
        self.conv_2 = nn.Sequential(
            OrderedDict(
                norm=nn.BatchNorm2d(inner),
                relu=nn.ReLU(inplace=True),
                conv=nn.Conv2d(inner, growth, kernel_size=3, padding=1, groups=arch.groups, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv_2(self.conv_1(x))], 1)


class CondenseNet(nn.Module):
    """The network of an `arch` record: stem, dense blocks with average pooling between them, head."""

    def __init__(self, arch: CondenseNetArch) -> None:
        super().__init__()
        self.arch = arch

        # Stem
        channels = 2 * arch.growth[0]
        stride = 2 if arch.stem == "imagenet" else 1
        self.features = nn.Sequential()
        self.features.add_module("init_conv", nn.Conv2d(arch.channels, channels, 3, stride, padding=1, bias=False))

        # Dense blocks
        for b, (layers, growth) in enumerate(zip(arch.stages, arch.growth, strict=True), start=1):
            block = nn.Sequential()
            for i in range(1, layers + 1):
                block.add_module(f"denselayer_{i}", DenseLayer(channels, growth, arch))
                channels += growth
            self.features.add_module(f"denseblock_{b}", block)
            if b < len(arch.stages):
                self.features.add_module(f"transition_{b}", nn.AvgPool2d(kernel_size=2, stride=2))

        # Head
        self.features.add_module("norm_last", nn.BatchNorm2d(channels))
        halved = arch.form == "converted" and arch.head == "half"
        head = CondensedLinear if halved else nn.Linear
        self.classifier = head(channels, arch.classes)

        he_initialise(self)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = torch.relu(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return logits

    def lasso(self) -> Tensor:
        """The group lasso of all learned group convolutions, to be added to the training loss."""
        terms = [module.lasso() for module in self.modules() if isinstance(module, LearnedGroupConv)]
        return torch.stack(terms).sum() if terms else torch.zeros(())


def converted(trained: CondenseNet) -> CondenseNet:
    """The deployed form of a network whose condensing stages are over.

    The logits are equal. The classifier keeps the half of its inputs with the largest L1 norm, as in the authors' code,
    where the other half is zero, and all of them where it is not.

    Raises:
        ValueError: a group kept more than 1/C of its inputs: condensing is not over.
    """
    assert isinstance(trained.classifier, nn.Linear)
    used = int((trained.classifier.weight != 0).any(0).sum())
    head = "half" if used <= trained.classifier.in_features // 2 else "all"
    arch = trained.arch.model_copy(update={"form": "converted", "head": head})
    result = CondenseNet(arch).to(next(trained.parameters()).dtype)
    own = dict(trained.named_modules())
    with torch.no_grad():
        for name, module in result.named_modules():
            if isinstance(module, CondensedConv):
                _convert_conv(own[name], module)
            elif isinstance(module, CondensedLinear):
                _convert_linear(own[name], module)
            elif name == "classifier" or (isinstance(module, nn.BatchNorm2d | nn.Conv2d) and "conv_1" not in name):
                module.load_state_dict(own[name].state_dict())
    return result.train(trained.training)


def _convert_conv(source: nn.Module, target: CondensedConv) -> None:
    assert isinstance(source, LearnedGroupConv)
    kept = source.kept()
    wanted = len(target.index) // source.groups
    if any(len(indices) != wanted for indices in kept):
        raise ValueError(f"a group keeps {max(map(len, kept))} of its inputs, not {wanted}: condensing is not over")
    index = torch.cat(kept)
    target.index.copy_(index)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(target.norm, name).copy_(getattr(source.norm, name)[index])
    grouped = source._grouped(source.conv.weight * source._mask)
    rows = [grouped[group][:, indices] for group, indices in enumerate(kept)]
    target.conv.weight.copy_(torch.cat(rows)[:, :, None, None])


def _convert_linear(source: nn.Module, target: CondensedLinear) -> None:
    assert isinstance(source, nn.Linear)
    strongest = source.weight.abs().sum(0).argsort(descending=True)[: len(target.index)]
    index = strongest.sort().values
    target.index.copy_(index)
    target.linear.weight.copy_(source.weight[:, index])
    target.linear.bias.copy_(source.bias)
