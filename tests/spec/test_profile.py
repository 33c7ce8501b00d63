import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnexport.errors import UsageError
from dnexport.spec.profile import Profile

profiles = st.lists(st.integers(1, 4096), min_size=3, max_size=3).map(
    lambda sizes: Profile(**dict(zip(("min_batch", "opt_batch", "max_batch"), sorted(sizes), strict=True)))
)


@given(profiles)
def test_parse_and_str_are_inverse(profile: Profile) -> None:
    assert Profile.parse(str(profile)) == profile


@pytest.mark.parametrize("text", ["8..1..1", "0..1..2", "1..2", "a", "", "1..9..8"])
def test_refuses_what_is_not_ascending(text: str) -> None:
    with pytest.raises(UsageError, match=r"write --batch 1\.\.1\.\.8"):
        Profile.parse(text)


def test_a_record_refuses_it_too() -> None:
    with pytest.raises(ValidationError, match="min <= opt <= max"):
        Profile(min_batch=4, opt_batch=2, max_batch=8)
