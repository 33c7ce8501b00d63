import numpy as np
import pytest

from dnexport.measure.budgets import exit_code, judgements
from dnexport.measure.latency import Block, Blocks, latency_from_blocks
from dnexport.measure.statistics import fewest_samples
from dnexport.spec.budget import METRICS, Budget
from dnexport.spec.latency import Benchmark, Ratio
from dnexport.spec.metrics import Accuracy, TargetReport


def accuracy(lost: int, gained: int, n: int = 10_000) -> Accuracy:
    return Accuracy(
        samples=n,
        labelled=n,
        top1=0.9 - (lost - gained) / n,
        top5=None,
        reference_top1=0.9,
        lost=lost,
        gained=gained,
        agreement=1 - (lost + gained) / n,
        max_abs_error=0.1,
        max_abs_logit=10,
        snr_db=38.0,
    )


def benchmark(queries: int = 1000, scale: float = 1.0, sets: int = 5) -> Benchmark:
    """Sets of processes that differ by one per cent each."""
    times = scale * np.linspace(1, 2, queries // sets)
    apart = [1 + (index - (sets - 1) / 2) / 100 for index in range(sets)]
    blocks = [Blocks((Block(tuple(map(float, by * times))),)) for by in apart]
    latency = latency_from_blocks(blocks, batch=1, threads=2)
    return Benchmark(latency=latency, over_best=Ratio(value=3, low=2.8, high=3.2, starts=((3,), (3,))))


REPORT = TargetReport(
    target="openvino:cpu", status="validated", bytes=9_000_000, accuracy=accuracy(31, 29), benchmark=benchmark()
)


def verdict(text: str, report: TargetReport = REPORT) -> str:
    (found,) = judgements([Budget.parse(text)], report)
    return found.verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size<=9MB", "pass"),
        ("size<=8.9MB", "fail"),
        ("snr>=38", "pass"),
        ("snr>=38.1", "fail"),
        ("top1-drop<=0.5", "pass"),  # +0.02 points, -0.14 to +0.18
        ("top1-drop<=0.1", "undecided"),
        ("top1>=89", "pass"),
        ("top1>=90", "undecided"),
        ("top1>=91", "fail"),
        ("agreement>=99", "pass"),
        ("agreement>=99.9", "fail"),
        ("p50<=1.6ms", "pass"),
        ("p50<=1.5ms", "undecided"),
        ("p50<=1.4ms", "fail"),
        ("p99<=2.1ms", "pass"),
        ("p99<=1.9ms", "fail"),
        ("throughput>=600", "pass"),
        ("throughput>=800", "fail"),
        ("speedup>=2.5", "pass"),
        ("speedup>=3", "undecided"),
        ("speedup>=3.3", "fail"),
    ],
)
def test_the_whole_interval_decides(text: str, expected: str) -> None:
    assert verdict(text) == expected


def test_a_percentile_is_judged_on_the_bound_that_is_shown() -> None:
    """From 369 queries on a 95 % interval of p99 has an upper end, where p99 is still withheld."""
    few = REPORT.model_copy(update={"benchmark": benchmark(400)})
    (found,) = judgements([Budget.parse("p99<=2.1ms")], few)
    assert (found.verdict, found.value, found.high) == ("undecided", None, None)
    (found,) = judgements([Budget.parse("p99<=2.1ms")], REPORT)
    assert found.high == REPORT.benchmark.latency.p99_bound_ms


def test_throughput_is_judged_as_it_is_shown() -> None:
    (found,) = judgements([Budget.parse("throughput>=1")], REPORT)
    assert found.value == REPORT.benchmark.latency.images_per_second
    assert found.low < found.value < found.high


def test_what_is_undecided_says_what_would_decide_it() -> None:
    (found,) = judgements([Budget.parse("top1-drop<=0.1")], REPORT)
    assert str(found).startswith("UNDECIDED: top1-drop<=0.1 points on openvino:cpu: 0.02 points (-0.1")
    needed = int(found.reason.split()[1])
    assert found.reason == f"about {needed} more labelled images would decide it"
    share = 1 + needed / 10_000
    grown = REPORT.model_copy(update={"accuracy": accuracy(round(31 * share), round(29 * share), 10_000 + needed)})
    assert verdict("top1-drop<=0.1", grown) == "pass"
    few = REPORT.model_copy(update={"benchmark": benchmark(100)})
    (tail,) = judgements([Budget.parse("p99<=5ms")], few)
    assert (tail.verdict, tail.high, tail.reason) == ("undecided", None, "more queries would decide it")


def test_sets_of_processes_are_what_a_median_is_unsure_of() -> None:
    """By as much, whether they have many queries or few; one set alone tells nothing."""
    many, few = ([*judgements([Budget.parse("p50<=1.5ms")], REPORT.model_copy(update={"benchmark": benchmark(n)}))] for n in (50_000, 1000))  # fmt: skip
    assert many[0].verdict == few[0].verdict == "undecided"
    assert many[0].high - many[0].low == pytest.approx(few[0].high - few[0].low, rel=0.02)
    for text in ("p50<=9ms", "throughput>=1", "speedup>=2.9"):
        one = REPORT.model_copy(update={"benchmark": benchmark(sets=1).model_copy(update={"over_best": Ratio(value=3, low=None, high=None, starts=((3,),))})})  # fmt: skip
        (found,) = judgements([Budget.parse(text)], one)
        assert (found.verdict, found.low, found.high) == ("undecided", None, None)
        assert found.reason == "more sets of processes ('dnexport bench --restarts') would decide it"
    withheld = REPORT.model_copy(update={"benchmark": benchmark().model_copy(update={"over_best": None})})
    (found,) = judgements([Budget.parse("speedup>=1")], withheld)
    assert found.reason == "there is no speed-up, and a note on the measurement says why"


def test_a_tail_that_is_too_slow_fails_also_with_few_queries() -> None:
    slow = REPORT.model_copy(update={"benchmark": benchmark(100, scale=10)})
    assert verdict("p99<=5ms", slow) == "fail"


def test_what_was_not_measured_is_undecided() -> None:
    prepared = TargetReport(target="tensorrt", status="prepared")
    found = judgements(
        [Budget.parse(text) for text in ("p99<=5ms", "top1-drop<=1", "size<=1MB", "speedup>=1")], prepared
    )
    assert {each.verdict for each in found} == {"undecided"}
    what = "not measured; there is no engine yet: 'dnexport compile' builds it on its device"
    assert [str(each) for each in found] == [f"UNDECIDED: {each.budget} on tensorrt: {what}" for each in found]


def test_an_exact_engine_has_no_noise_and_a_bound_without_a_value_is_shown() -> None:
    exact = REPORT.model_copy(update={"accuracy": accuracy(0, 0).model_copy(update={"snr_db": None})})
    assert verdict("snr>=90", exact) == "pass"
    few = REPORT.model_copy(update={"benchmark": benchmark(100, scale=10)})
    (tail,) = judgements([Budget.parse("p99<=5ms")], few)
    assert str(tail).startswith("FAILED: p99<=5ms on openvino:cpu: at least 1")
    built = REPORT.model_copy(update={"file": "f", "benchmark": None, "accuracy": None})
    reasons = [each.reason for each in judgements([Budget.parse("p99<=1"), Budget.parse("snr>=1")], built)]
    assert [reason.split("'")[1] for reason in reasons] == ["dnexport bench", "dnexport validate"]


def test_accuracy_without_labels_says_what_it_needs() -> None:
    unlabelled = accuracy(0, 0).model_copy(update={"top1": None, "lost": None, "gained": None, "labelled": 0})
    (found,) = judgements([Budget.parse("top1-drop<=1")], REPORT.model_copy(update={"accuracy": unlabelled}))
    assert (found.verdict, found.reason) == ("undecided", "the test images have no labels; add --data DIR")


def test_exit_codes() -> None:
    passed, open_, failed = judgements([Budget.parse(f"speedup>={x}") for x in (2, 3, 4)], REPORT)
    assert exit_code([]) == exit_code([passed]) == 0
    assert exit_code([passed, open_]) == 7
    assert exit_code([open_, failed]) == 6


def test_what_is_required_of_a_percentile_is_enough_to_bound_it() -> None:
    assert {name: metric.queries for name, metric in METRICS.items() if metric.queries} == {
        "p90": fewest_samples(0.90),
        "p99": fewest_samples(0.99),
    }
