import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnexport.errors import RecipeError, UsageError
from dnexport.spec.budget import METRICS, Budget
from dnexport.spec.recipe import recipe_from_values

budgets = st.builds(
    Budget, metric=st.sampled_from(sorted(METRICS)), limit=st.floats(0, 1e9, allow_nan=False, allow_subnormal=False)
)


@given(budgets)
def test_a_printed_budget_parses_back(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("top1-drop<=0.5", "top1-drop<=0.5 points"),
        ("p99 <= 5", "p99<=5ms"),
        ("p50<=0.002s", "p50<=2ms"),
        ("p90<=1500us", "p90<=1.5ms"),
        ("p99<=9us", "p99<=0.009ms"),
        ("size<=500kB", "size<=0.5MB"),
        ("snr>=30dB", "snr>=30dB"),
        ("throughput>=100/s", "throughput>=100images/s"),
        ("speedup>=2x", "speedup>=2×"),
        ("agreement>=0.99%", "agreement>=0.99%"),
        ("top1>=0", "top1>=0%"),
        ("top1-drop<=1", "top1-drop<=1 points"),
    ],
)
def test_units_are_read(text: str, printed: str) -> None:
    assert str(Budget.parse(text)) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99<5ms", "is not of the form metric<=number; write --require 'p99<=5ms'"),
        ("p98<=5ms", "is about an unknown metric; did you mean p9"),
        ("p99>=5ms", "bounds 99th percentile of latency from the side that nobody wants; write p99<=5ms"),
        ("top1<=99%", "from the side that nobody wants; write top1>=99%"),
        ("p99<=5MB", "has the unit 'MB'; use ms, us, s"),
        ("", "is not of the form"),
        ("agreement>=0.99", r"asks for 0\.99 percent, and a share may be meant; did you mean agreement>=99%\?"),
        ("top1>=0.745", r"did you mean top1>=74\.5%\? else write top1>=0\.745%"),
        ("top1>=1", r"did you mean top1>=100%\?"),
    ],
)
def test_what_is_no_budget_says_why(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget.parse(text)


def test_a_recipe_has_them_as_a_list_or_a_table() -> None:
    values = {"name": "r", "arch": "densenet121"}
    table = recipe_from_values({**values, "require": {"p99": "<=5ms", "top1-drop": "<=0.5"}}, "test")
    assert table.require == ("p99<=5ms", "top1-drop<=0.5 points")
    assert recipe_from_values({**values, "require": list(table.require)}, "test") == table
    with pytest.raises(RecipeError, match="'p99' has 2 budgets: p99<=5ms and p99<=4ms; keep one"):
        recipe_from_values({**values, "require": ["p99<=5ms", "p99<=4ms"]}, "test")
    with pytest.raises(RecipeError, match="unknown metric"):
        recipe_from_values({**values, "require": ["p98<=5ms"]}, "test")


def test_the_help_names_every_metric_with_its_unit() -> None:
    import re

    from dnexport.cli.options import Require

    words = Require.__metadata__[0].help
    for name, metric in METRICS.items():
        assert re.search(rf"\b{name}{metric.relation}[^()]*\({re.escape(metric.unit)}\)", words), name
