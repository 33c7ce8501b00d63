import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnexport.errors import ArchError
from dnexport.spec.archs import NAMED, AnyArch, DenseNetArch, PeleeNetArch, arch_from_text, named_arch

# Exact counts, published or derived from the published tables (the plain CIFAR nets are published rounded).
PARAMETERS = {
    "densenet121": 7_978_856, "densenet161": 28_681_000, "densenet169": 14_149_480, "densenet201": 20_013_928,
    "densenet264": 33_337_704, "densenet-bc-40-12": 176_122, "densenet-bc-100-12": 769_162,
    "densenet-bc-250-24": 15_324_406, "densenet-bc-190-40": 25_624_430, "peleenet": 2_802_248,
    "condensenet-c4": 4_773_944, "condensenet-c8": 2_935_416, "condensenet-86": 516_202, "dpn68": 12_611_602,
    "dpn68b": 12_611_602, "dpn92": 37_668_392, "dpn98": 61_570_728, "dpn107": 86_917_800, "dpn131": 79_254_504,
}  # fmt: skip
GMACS = {
    "densenet121": 2.834, "densenet161": 7.728, "densenet169": 3.360, "densenet201": 4.291, "peleenet": 0.508,
    "dpn68": 2.35, "dpn92": 6.54, "dpn98": 11.73, "dpn107": 18.38, "dpn131": 16.09,
}  # fmt: skip
archs = st.one_of(
    st.builds(
        DenseNetArch,
        blocks=st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple),
        k=st.integers(1, 64), bottleneck=st.integers(0, 8), theta=st.sampled_from([0.25, 0.5, 1.0]),
        stem=st.sampled_from(["imagenet", "cifar"]), classes=st.integers(1, 2000), channels=st.integers(1, 4),
    ),
    st.sampled_from([named.arch for named in NAMED.values()]),
    st.builds(PeleeNetArch, dropout=st.sampled_from([0.0, 0.05]), classes=st.integers(1, 2000)),
)  # fmt: skip


@given(archs)
def test_the_string_form_reads_back_equal(arch: AnyArch) -> None:
    assert arch_from_text(str(arch)) == arch


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_exact(name: str) -> None:
    assert NAMED[name].arch.parameters == PARAMETERS[name]


@pytest.mark.parametrize(("name", "parameters"), [("condensenet-c4", 11_922_680), ("condensenet-c8", 11_103_608)])
def test_parameters_of_the_training_form(name: str, parameters: int) -> None:
    assert NAMED[name].arch.model_copy(update={"form": "training"}).parameters == parameters


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    assert NAMED[name].macs / 1e9 == pytest.approx(GMACS[name], rel=0.0105)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("densnet(k=3)", "names an unknown family 'densnet'; did you mean densenet"),
        ("densenet(k=3)", "key 'blocks' is missing; add it"),
        ("densenet(blocks=2-2,k=x)", "key 'k' is 'x'; input should be a valid integer"),
        ("densenet(blocks=2-2,k=4,kk=4)", "unknown key 'kk'; did you mean k"),
        ("densenet(blocks=2-2,k)", "has 'k' where one name=value belongs; write densenet(name=value,…)"),
        ("densenet(blocks=2-2,k=4,k=5)", "has 'k=5' where one name=value belongs"),
        ("densenet(blocks=2-0,k=4)", "blocks has at least one dense block"),
        ("condensenet(stages=2-2,growth=8)", "stages and growth have one positive number a block"),
        ("condensenet(stages=2,growth=6)", "every growth is a multiple of groups and of condense"),
        ("peleenet(blocks=3)", "blocks and bottleneck have one positive number a block"),
        ("densenet(blocks=1-1,k=1,theta=0.01,init=1)", "convolution transition1.conv would have 0 channels"),
        ("densenet(blocks=999999999,k=1)", "the table has more layers or channels than any network of the family"),
        ("densenet(blocks=2,k=1000000000)", "parameters, more than 500,000,000"),
        ("densenet(blocks=2,k=4,classes=1000000000000)", "parameters, more than 500,000,000"),
        ("peleenet(init=6,k=8,blocks=2-1,bottleneck=4-1)", "would have 0 channels"),
        ("dpn(k_r=97)", "k_r is a multiple of groups"),
    ],
)
def test_string_forms_that_say_nothing_buildable_are_refused(text: str, message: str) -> None:
    with pytest.raises(ArchError, match=re.escape(message)):
        arch_from_text(text)


@pytest.mark.parametrize(
    ("name", "millions"), [("densenet-40-12", 1.0), ("densenet-100-12", 7.0), ("densenet-100-24", 27.2)]
)
def test_plain_nets_round_to_the_papers_numbers(name: str, millions: float) -> None:
    assert round(NAMED[name].arch.parameters / 1e6, 1) == millions


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
