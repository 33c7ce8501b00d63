"""The memory-efficient form: the same gradients and statistics, saved activations linear in depth."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dnexport.errors import ArchError
from dnexport.models.densenet import DenseNet
from dnexport.models.zoo import module_from_arch
from dnexport.spec.archs import DenseNetArch
from tests.networks import FAMILY


@pytest.fixture(scope="module")
def benchmark(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("activations", root / "benchmarks" / "activations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_gradients_and_statistics_are_the_same(bottleneck: int) -> None:
    arch = DenseNetArch(blocks=(3, 3), k=4, stem="cifar", init=8, classes=5, bottleneck=bottleneck)
    torch.manual_seed(0)
    plain, efficient = DenseNet(arch), DenseNet(arch, memory_efficient=True)
    efficient.load_state_dict(plain.state_dict())
    for _ in range(2):
        images = torch.randn(4, 3, 16, 16)
        for module in (plain, efficient):
            module(images).square().sum().backward()
    for (name, one), (_, two) in zip(plain.named_parameters(), efficient.named_parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-6, msg=name)
    for (name, one), (_, two) in zip(plain.named_buffers(), efficient.named_buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6, msg=name)
    assert efficient.features.denseblock1.denselayer1.norm1.num_batches_tracked.item() == 2


def test_saved_activations_are_linear_in_depth_not_quadratic(benchmark: ModuleType) -> None:
    images = torch.randn(1, 3, 32, 32)
    depths = [40, 70, 100, 130]
    curves = {}
    for memory_efficient in (False, True):
        saved = [benchmark.saved_bytes(benchmark.network(d, memory_efficient=memory_efficient), images) for d in depths]
        curves[memory_efficient] = np.polynomial.Polynomial.fit(depths, saved, 2).convert().coef
        assert benchmark.saved_bytes(benchmark.network(40, memory_efficient=memory_efficient), images) == saved[0]
    # Of the growth from depth 40 to 130, the share that the quadratic term makes.
    shares = {form: c[2] * (130**2 - 40**2) / (c[2] * (130**2 - 40**2) + c[1] * 90) for form, c in curves.items()}
    assert shares[False] > 0.5
    assert abs(shares[True]) < 0.1


def test_evaluation_and_export_take_the_plain_path() -> None:
    arch = DenseNetArch(blocks=(2,), k=4, stem="cifar", init=8, classes=5)
    module = DenseNet(arch, memory_efficient=True).eval()
    with torch.no_grad():
        assert not module(torch.randn(1, 3, 8, 8)).requires_grad


def test_other_families_have_no_such_form() -> None:
    with pytest.raises(ArchError, match="peleenet has no memory-efficient form; drop --memory-efficient"):
        module_from_arch(FAMILY["peleenet"], memory_efficient=True)
