import pytest
from pydantic import ValidationError

from dnexport.errors import ArchError
from dnexport.spec.arch import NAMED, DenseNetArch, named_arch


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("densenet121", 7_978_856), ("densenet161", 28_681_000), ("densenet169", 14_149_480), ("densenet201", 20_013_928),
        ("densenet264", 33_337_704), ("densenet-bc-40-12", 176_122), ("densenet-bc-100-12", 769_162),
        ("densenet-bc-250-24", 15_324_406), ("densenet-bc-190-40", 25_624_430),
    ],
)  # fmt: skip
def test_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert NAMED[name].arch.parameters == parameters


@pytest.mark.parametrize(
    ("name", "millions"), [("densenet-40-12", 1.0), ("densenet-100-12", 7.0), ("densenet-100-24", 27.2)]
)
def test_plain_nets_round_to_the_papers_numbers(name: str, millions: float) -> None:
    assert round(NAMED[name].arch.parameters / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("densenet121", 2.834), ("densenet161", 7.728), ("densenet169", 3.360), ("densenet201", 4.291)],
)
def test_multiply_adds_are_torchvisions(name: str, gmacs: float) -> None:
    assert NAMED[name].macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_the_prefix_may_be_left_out() -> None:
    assert named_arch("BC-40-12") is NAMED["densenet-bc-40-12"]


def test_an_unknown_arch_names_the_nearest() -> None:
    with pytest.raises(ArchError, match=r"unknown arch 'densnet121'; did you mean densenet121.*'dnexport archs' lists"):
        named_arch("densnet121")


def test_same_body_ignores_the_ends_only() -> None:
    arch = NAMED["densenet121"].arch
    assert arch.same_body(arch.model_copy(update={"classes": 14, "channels": 1, "dropout": 0.2}))
    assert not arch.same_body(arch.model_copy(update={"k": 48}))


@pytest.mark.parametrize(
    "wrong", [{"blocks": ()}, {"blocks": (3, 0)}, {"k": 0}, {"theta": 0.0}, {"theta": 1.5}, {"stem": "vgg"}]
)
def test_impossible_archs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DenseNetArch(**{"blocks": (2, 2), "k": 4, **wrong})


@pytest.mark.parametrize(("stem", "least"), [("imagenet", 29), ("cifar", 8)])
def test_smallest_input(stem: str, least: int) -> None:
    assert DenseNetArch(blocks=(1, 1, 1, 1), k=4, stem=stem).smallest_input == least
