"""What became worse beyond noise is found, and nothing else is."""

import contextlib
import functools
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dnexport.measure.accuracy import accuracy_from_logits
from dnexport.measure.latency import Probe, WarmUp, alternate, ratio_from_blocks
from dnexport.report.compare import ERROR_RATE, agreement_test, compare, holm, speed_test, top1_test
from dnexport.runtimes.isolate import Worker
from dnexport.spec.comparison import Change, ComparedRow, Comparison
from dnexport.spec.latency import Benchmark, Ratio
from dnexport.spec.metrics import Accuracy
from dnexport.spec.recipe import Bench
from dnexport.spec.report import BundleReport, json_from_report, report_from_bundles
from tests.measure.test_latency import IMAGES, Sleeper
from tests.report.handmade import BOARD, accuracy, benchmark, bundle, ratio

Run = Callable[..., subprocess.CompletedProcess[str]]
TARGET = "openvino:cpu"


def of(one: BundleReport, **said: object) -> BundleReport:
    """The bundle with other things said of its engine."""
    report = one.targets[TARGET].model_copy(update=said)
    return one.model_copy(update={"targets": {TARGET: report}})


def ratios(rng: np.random.Generator, value: float, spread: float, sets: int = 5) -> Ratio:
    """Of sets with random logarithms."""
    return Ratio(
        value=value,
        low=None,
        high=None,
        starts=tuple((float(v),) for v in value * np.exp(spread * rng.normal(size=sets))),
    )


def counted(disagree: int, images: int, lost: int = 0, gained: int = 0) -> Accuracy:
    return accuracy(shown=0).model_copy(
        update={
            "samples": images,
            "labelled": images,
            "agreement": 1 - disagree / images,
            "lost": lost,
            "gained": gained,
        }
    )


starts = st.lists(st.lists(st.floats(0.5, 2), min_size=1, max_size=3), min_size=2, max_size=7)


@given(starts, starts)
def test_speed_is_welchs_test(old: list[list[float]], new: list[list[float]]) -> None:
    logs = [[np.log(np.median(rounds)) for rounds in side] for side in (old, new)]
    if any(np.var(side) < 1e-12 for side in logs):
        return
    apart = np.mean(logs[1]) - np.mean(logs[0])
    allowed = np.clip(apart, -0.01, 0.01)  # what two runs may lie apart
    expected = stats.ttest_ind(np.add(logs[0], allowed), logs[1], equal_var=False)
    before, after = (Ratio(value=1, low=None, high=None, starts=tuple(map(tuple, side))) for side in (old, new))
    assert speed_test(before, after).p == pytest.approx(expected.pvalue, rel=1e-6)
    assert speed_test(before, after).change == pytest.approx(100 * np.expm1(apart))


def test_speed_without_any_noise_is_decided() -> None:
    same = Ratio(value=2, low=2, high=2, starts=((2.0,), (2.0,)))
    other = Ratio(value=2.1, low=2.1, high=2.1, starts=((2.1,), (2.1,)))
    assert speed_test(same, same).p == 1
    assert speed_test(same, same.model_copy(update={"starts": ((2.019,), (2.019,))})).p == 1, (
        "within what runs differ by"
    )
    assert speed_test(same, other).p == 0


@given(st.data())
def test_agreement_is_fishers_test(data: st.DataObject) -> None:
    images = [data.draw(st.integers(1, 3000)) for _ in range(2)]
    wrong = [data.draw(st.integers(0, n)) for n in images]
    table = [[k, n - k] for k, n in zip(wrong, images, strict=True)]
    found = agreement_test(*(counted(k, n) for k, n in zip(wrong, images, strict=True)))
    assert found.p == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-6, abs=1e-12)


@given(*[st.integers(0, 60)] * 4)
def test_top1_is_mcnemars_test_of_all_that_may_have_changed(a: int, b: int, c: int, d: int) -> None:
    found = top1_test(counted(0, 10_000, a, b), counted(0, 10_000, c, d))
    worse = a + d  # of a random walk of a+b+c+d steps that ends at (c − d) − (a − b)
    expected = stats.binomtest(worse, a + b + c + d).pvalue if a + b + c + d else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert found.change == pytest.approx(-((c - d) - (a - b)) / 100)


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_unchanged_pairs_raise_no_more_false_alarms_than_promised() -> None:
    """2,000 reports of four tests each: two may be wrong, and nine would have a probability below 10⁻³."""
    rng = np.random.default_rng(7)
    false_alarms = 0
    for _ in range(2000):
        spread = rng.uniform(0.003, 0.05)
        speed = [speed_test(ratios(rng, 3, spread), ratios(rng, 3, spread)).p for _ in range(2)]
        wrong = rng.binomial(10_000, 0.007, 2)
        lost, gained = rng.binomial(10_000, 0.002, (2, 2))
        old, new = (counted(int(w), 10_000, int(a), int(b)) for w, a, b in zip(wrong, lost, gained, strict=True))
        false_alarms += min(holm([*speed, agreement_test(old, new).p, top1_test(old, new).p])) < ERROR_RATE
    assert false_alarms <= 8


@pytest.mark.parametrize(
    ("sets", "spread", "least", "most"),
    [(5, 0.005, 0.95, 1), (5, 0.01, 0.3, 0.5), (8, 0.01, 0.95, 1), (10, 0.02, 0.35, 0.5)],
)
def test_how_often_five_percent_is_seen(sets: int, spread: float, least: float, most: float) -> None:
    """Five sets are enough where they differ by 0.5 %; by 1 % it takes eight, by 2 % more than ten.

    Four tests share the error rate, as of one engine with labels.
    """
    rng = np.random.default_rng(1)
    level = ERROR_RATE / 4
    found = [
        speed_test(ratios(rng, 3, spread, sets), ratios(rng, 3 / 1.05, spread, sets)).p < level for _ in range(1000)
    ]
    assert least <= np.mean(found) <= most


def test_what_would_have_been_seen_is_seen_in_nine_of_ten_runs() -> None:
    rng = np.random.default_rng(2)
    usual = float(
        np.median([speed_test(ratios(rng, 1, 0.01), ratios(rng, 1, 0.01)).detectable(1e-4) for _ in range(500)])
    )
    seen = [speed_test(ratios(rng, 1, 0.01), ratios(rng, 1 + usual / 100, 0.01)).p < 1e-4 for _ in range(1000)]
    assert 0.8 < np.mean(seen) < 0.97
    for test, changed in (
        (
            agreement_test(counted(50, 10_000), counted(50, 10_000)),
            lambda n: agreement_test(counted(50, 10_000), counted(50 + n, 10_000)),
        ),
        (
            top1_test(counted(0, 10_000, 9, 4), counted(0, 10_000, 9, 4)),
            lambda n: top1_test(counted(0, 10_000, 9, 4), counted(0, 10_000, 9 + n, 4)),
        ),
    ):
        smallest = round(100 * test.detectable(1e-4))
        assert changed(smallest).p < 1e-4 <= changed(smallest - 1).p
    assert agreement_test(counted(0, 3), counted(0, 3)).detectable(1e-4) is None, "three images show nothing"


def test_labels_that_change_are_flagged_and_rounding_is_not() -> None:
    rng = np.random.default_rng(3)
    reference = (rng.normal(size=(10_000, 10)) * 3).astype(np.float32)
    labels = np.where(rng.random(10_000) < 0.95, reference.argmax(axis=1), rng.integers(0, 10, 10_000))

    def engine(changed: int) -> BundleReport:
        logits = reference + rng.normal(size=reference.shape).astype(np.float32) * 0.005
        logits[np.arange(changed), logits[:changed].argmin(axis=1)] = 50
        return of(bundle(), accuracy=accuracy_from_logits(reference, logits, labels), benchmark=None)

    same = compare([engine(0)], [engine(0)], "old")
    assert {row.verdict for row in same.rows} == {"unchanged"}
    assert same.exit_code == 0
    assert "no change beyond noise; more than 0." in str(same.rows[0])
    worse = compare([engine(100)], [engine(0)], "old")
    assert [(row.metric, row.verdict) for row in worse.rows] == [
        ("agreement with PyTorch", "worse"),
        ("top-1", "worse"),
    ]
    assert worse.exit_code == 6
    better = compare([engine(0)], [engine(100)], "old")
    assert [row.verdict for row in better.rows] == ["better", "better"]
    assert better.exit_code == 0


@contextlib.contextmanager
def six_sets(milliseconds: float) -> Iterator[list[tuple[Worker, Worker]]]:
    """A reference and an engine, six times."""
    with contextlib.ExitStack() as stack:

        def worker(each: float) -> Worker:
            made = stack.enter_context(Worker("waiting"))
            made.create(Probe, functools.partial(Sleeper, each), IMAGES)
            return made

        yield [(worker(2.0), worker(milliseconds)) for _ in range(6)]


def measured(sets: list[tuple[Worker, Worker]]) -> Benchmark:
    """A run as ``dnexport bench`` makes it, of small blocks."""
    cold = [WarmUp(0, (), True)] * 2
    blocks = [alternate(pair, cold, batch=1, block_s=0.01, enough=lambda rounds, _: rounds == 3) for pair in sets]
    found = ratio_from_blocks(*([each[index] for each in blocks] for index in (0, 1)))
    return benchmark(0.5, speedup=found).model_copy(update={"over_eager": found})


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({"speed-up over PyTorch eager": "unchanged", "top-1": "unchanged"}, 0),
        ({"speed-up over PyTorch eager": "not comparable", "top-1": "worse"}, 6),
        ({"speed-up over PyTorch eager": "not comparable", "top-1": "unchanged"}, 7),
        (
            {
                "speed-up over PyTorch eager": "better",
                "speed-up over PyTorch's best form": "not comparable",
                "top-1": "unchanged",
            },
            0,
        ),
        ({}, 7),
    ],
)
def test_a_half_that_could_not_be_compared_is_not_passed(verdicts: dict[str, Change], code: int) -> None:
    rows = tuple(
        ComparedRow(engine="e", metric=metric, unit="×", verdict=verdict) for metric, verdict in verdicts.items()
    )
    assert Comparison(baseline="old", error_rate=0.001, rows=rows, facts=()).exit_code == code


@pytest.mark.alone
def test_real_runs_are_flagged_only_where_the_engine_is_slower() -> None:
    """Twenty times two runs of the same, and three that wait 5 % longer."""
    with six_sets(1.0) as same, six_sets(1.05) as slower:
        runs = [of(bundle(), benchmark=measured(same), accuracy=None) for _ in range(21)]
        late = [of(bundle(), benchmark=measured(slower), accuracy=None) for _ in range(3)]
    for old, new in itertools.pairwise(runs):
        found = compare([new], [old], "old")
        assert {row.verdict for row in found.rows}.isdisjoint({"worse", "better"}), found
    # Whatever else this machine does may hide it.
    flagged = [{row.verdict for row in compare([each], [runs[-1]], "old").rows} == {"worse"} for each in late]
    assert any(flagged)


def test_what_cannot_be_compared_says_why() -> None:
    now = bundle()
    usual = now.targets[TARGET].benchmark
    one_set = usual.model_copy(update={"over_eager": ratio(6, sets=1)})
    other_form = usual.best_reference.model_copy(update={"form": "channels-last fp32"})
    cases: dict[str, tuple[BundleReport, str]] = {
        "another machine: Some Xeon, 2 cores, was Orin Nano": (now.model_copy(update={"environment": BOARD}), "eager"),
        "the bench settings differ": (now.model_copy(update={"bench": Bench(block_s=1)}), "eager"),
        "threads 2, was 4": (
            of(now, benchmark=usual.model_copy(update={"latency": usual.latency.model_copy(update={"threads": 4})})),
            "eager",
        ),
        "batch 1, was 8": (
            of(now, benchmark=usual.model_copy(update={"latency": usual.latency.model_copy(update={"batch": 8})})),
            "eager",
        ),
        "PyTorch 2.9.0, was 2.8.0": (
            now.model_copy(
                update={
                    "environment": now.environment.model_copy(
                        update={"versions": {**now.environment.versions, "torch": "2.8.0"}}
                    )
                }
            ),
            "eager",
        ),
        "governor performance, was powersave": (
            now.model_copy(update={"environment": now.environment.model_copy(update={"governor": "powersave"})}),
            "eager",
        ),
        "network densenet-bc-40-12, was densenet121": (now.model_copy(update={"network": "densenet121"}), "eager"),
        "it is withheld in the baseline": (of(now, benchmark=usual.model_copy(update={"over_eager": None})), "eager"),
        "one set of processes in the baseline tells no noise": (of(now, benchmark=one_set), "eager"),
        "PyTorch's form is channels-last bf16, was channels-last fp32": (
            of(now, benchmark=usual.model_copy(update={"references": (usual.references[0], other_form)})),
            "best form",
        ),
        "latency was not measured for the baseline": (of(now, benchmark=None), "speed-up"),
        "PyTorch was not measured beside it for the baseline": (
            of(now, benchmark=usual.model_copy(update={"references": ()})),
            "speed-up",
        ),
        "other weights": (now.model_copy(update={"weights": now.weights.model_copy(update={"digest": "x"})}), "top-1"),
        "other preprocessing": (
            now.model_copy(update={"preprocess": now.preprocess.model_copy(update={"mean": (0.1, 0.1, 0.1)})}),
            "agreement with PyTorch",
        ),
        "other test images": (
            now.model_copy(update={"golden": now.golden.model_copy(update={"test_digest": "x"})}),
            "top-1",
        ),
        # Of the same set a device has answered the samples that travel.
        "other test images ": (of(now, accuracy=counted(3, 111)), "agreement with PyTorch"),
        "the baseline has no such engine": (bundle("fp16"), "all"),
    }
    for reason, (old, metric) in cases.items():
        rows = [row for row in compare([now], [old], "old").rows if row.reason == reason.strip()]
        assert any(row.metric.endswith(metric) for row in rows), reason
        assert all(str(row) == f"not comparable: {reason.strip()}" and row.p is None for row in rows)
    rows = compare([now], [bundle("fp16")], "old").rows
    assert [row.reason for row in rows] == ["the baseline has no such engine", "only the baseline has this engine"]


def test_more_sets_and_newer_packages_compare_and_are_listed() -> None:
    now = bundle()
    versions = {**now.environment.versions, "onnxruntime": "1.30.0"}
    before = now.model_copy(
        update={
            "bench": now.bench.model_copy(update={"restarts": 9}),
            "environment": now.environment.model_copy(update={"versions": versions, "load_average": 3.0}),
        }
    )
    found = compare([now], [of(before, bytes=3_500_000)], "old")
    assert {row.verdict for row in found.rows} == {"unchanged"}
    assert [str(fact) for fact in found.facts if fact.changed] == [
        "INT8 on openvino:cpu: engine size 3.5 MB → 3.4 MB",
        "onnxruntime 1.30.0 → 1.23.0",
    ]


def test_an_engine_is_compared_with_itself_on_the_same_machine() -> None:
    here, there = bundle(), bundle(environment=BOARD)
    found = compare([here, there], [there, here], "old")
    assert {row.verdict for row in found.rows} == {"unchanged"}


@pytest.mark.parametrize(
    ("old", "code"),
    [
        (bundle(), 0),
        (of(bundle(), benchmark=benchmark(3.0)), 6),
        (of(bundle("fp16"), benchmark=None), 7),
    ],
)
def test_the_command_says_it_and_its_exit_code_too(old: BundleReport, code: int, tmp_path: Path, run_cli: Run) -> None:
    for name, each in (("old", old), ("new", bundle())):
        (tmp_path / f"{name}.json").write_text(json_from_report(report_from_bundles([each], "dnexport report x")))
    done = run_cli("report", "new.json", "--baseline", "old.json", "-o", "r.md", "--json", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    verdicts = [row["verdict"] for row in json.loads(done.stdout)["comparison"]["rows"]]
    assert ("worse" in verdicts, set(verdicts) == {"not comparable"}) == (code == 6, code == 7)
    text = (tmp_path / "r.md").read_text()
    assert "Against `old.json`:" in text
    assert "`dnexport report new.json --baseline old.json`" in text


def test_what_noise_hides_altogether_is_not_called_unchanged() -> None:
    now = of(bundle(), benchmark=benchmark(3.2, speedup=ratio(4, 0.5)), accuracy=counted(0, 3))
    found = compare([now], [now], "old")
    reasons = {row.metric: row.reason for row in found.rows if row.verdict == "not comparable"}
    assert reasons["speed-up over PyTorch eager"] == "the sets of processes differ so much that no change would be seen"
    assert reasons["agreement with PyTorch"] == "the images are so few that no change would be seen"
    assert found.exit_code == 7
