import pytest
import torch

from dnexport.models.densenet import DenseNet
from dnexport.models.zoo import module_from_seed
from dnexport.spec.archs import DenseNetArch
from tests.networks import TINY, check_arithmetic

FORMS = [
    DenseNetArch(
        blocks=(2, 3), k=4, stem=stem, init=8, bottleneck=bottleneck, theta=theta, classes=7, channels=channels
    )
    for stem in ("imagenet", "cifar")
    for bottleneck in (0, 2, 4)
    for theta in (0.5, 1.0)
    for channels in (1, 3)
]


@pytest.mark.parametrize("arch", FORMS, ids=lambda a: f"{a.stem}-b{a.bottleneck}-t{a.theta}-c{a.channels}")
def test_every_form_counts_and_multiplies_as_stated(arch: DenseNetArch) -> None:
    check_arithmetic(arch, 33, 47)


def test_the_smallest_input_works_and_one_pixel_less_does_not() -> None:
    for arch in (FORMS[0], FORMS[-1]):
        module, least = DenseNet(arch).eval(), arch.smallest_input
        assert module(torch.zeros(1, arch.channels, least, least)).shape == (1, 7)
    arch = DenseNetArch(blocks=(1, 1, 1, 1), k=4, init=8)
    with pytest.raises(RuntimeError, match="too small"):
        DenseNet(arch).eval()(torch.zeros(1, 3, arch.smallest_input - 1, arch.smallest_input - 1))


def test_keys_are_torchvisions() -> None:
    keys = set(DenseNet(DenseNetArch(blocks=(1, 1), k=4, init=8)).state_dict())
    assert {
        "features.conv0.weight",
        "features.norm0.running_var",
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock1.denselayer1.conv2.weight",
        "features.transition1.conv.weight",
        "features.norm5.bias",
        "classifier.bias",
    } <= keys


def test_dropout_acts_in_training_only() -> None:
    module = DenseNet(TINY.model_copy(update={"dropout": 0.5}))
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        module.eval()
        assert torch.equal(module(x), module(x))
        module.train()
        assert not torch.equal(module(x), module(x))


def test_random_weights_repeat_and_have_lived() -> None:
    one, two, other = (module_from_seed(TINY, (16, 16), seed) for seed in (0, 0, 1))
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(one(x), two(x))
        assert not torch.equal(one(x), other(x))
    assert one.features.norm5.running_mean.abs().sum() > 0
    assert not one.training
