import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnexport.errors import UsageError
from dnexport.spec.target import DEVICES, Target

capabilities = st.lists(st.integers(50, 130).map(lambda n: f"sm{n}"), unique=True).map(
    lambda names: tuple(sorted(names, key=lambda n: int(n[2:])))
)
targets = st.one_of(
    st.sampled_from([(r, d) for r, devices in DEVICES.items() for d in devices]).map(
        lambda pair: Target(runtime=pair[0], device=pair[1])
    ),
    capabilities.map(lambda names: Target(runtime="tensorrt-rtx", device="cuda", capabilities=names)),
)


@given(targets)
def test_parse_and_str_are_inverse(target: Target) -> None:
    assert Target.parse(str(target)) == target


@given(targets)
def test_slug_is_a_directory_name(target: Target) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", target.slug)


def test_capabilities_are_sorted_and_unique() -> None:
    assert str(Target.parse("tensorrt-rtx:sm120+sm86+sm86")) == "tensorrt-rtx:sm86+sm120"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openvinno:cpu", "unknown target 'openvinno:cpu'; did you mean openvino:cpu"),
        ("onnxruntime:tpu", "target 'onnxruntime:tpu' names a device that onnxruntime does not have; "
                            "use onnxruntime:cpu or onnxruntime:cuda"),
        ("tensorrt-rtx:sm86+ada", "target 'tensorrt-rtx:sm86+ada' has 'ada' where a compute capability such as sm86"
                                  " belongs; write tensorrt-rtx:sm86+sm89"),
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_know(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Target.parse(text)


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        assert Target.parse(str(Target.parse(text))) == Target.parse(text)
    except UsageError as error:
        assert repr(text)[1:-1] in str(error) or text in str(error)


def test_dla_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"asks for DLA, which takes no dynamic batch.*; name tensorrt, which runs"):
        Target.parse("tensorrt:dla0")
