"""What became worse since an earlier report, beyond noise.

Speed is compared as a ratio to PyTorch in the same run, never in milliseconds: a machine that is slower today is slower
for both. Each set of processes gives one logarithm (of the median of its rounds), and Welch's t test asks whether those
of the two reports lie more than 1 % apart: what differs between runs but not between sets of one run is no change
of the engine. Agreement has Fisher's exact test, which takes the two counts as independent; they are of the same
images, so it says too little rather than too much. Top-1 has McNemar's exact test. That needs the images which only one
of the two engines has right. Their difference is known, d = (lost − gained) now − (lost − gained) then; their number is
at most that of the images on which either engine differs from PyTorch, which gives the largest p and is what is taken.

All tests of a report share one error rate (Holm 1979). What has no noise is listed, not tested.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import special

from dnexport.report.columns import Column, columns_from_bundles, megabytes
from dnexport.spec.comparison import Change, ComparedRow, Comparison, Fact
from dnexport.spec.latency import Benchmark, Ratio
from dnexport.spec.metrics import Accuracy, Environment
from dnexport.spec.report import BundleReport

ERROR_RATE = 0.001
# Of ten runs with a change of the detectable size, nine show it.
_POWER = 0.9
_LEAST_SETS = 2
# By what two runs of the same may lie apart, as a logarithm. Sessions that only wait, in 21 runs whose sets differed by
# 0.05 to 0.5 %, gave means with a standard deviation of 0.2 % that lay up to 1 % apart.
_BETWEEN_RUNS = 0.01
# Of a logarithm: where not even a doubling would be seen, nothing is compared.
_NOTHING_SEEN = math.log(2)


class Outcome(NamedTuple):
    """Of a test of no change.

    Attributes:
        change: in % of a ratio, or in points; positive is better.
        p: two-sided.
        detectable: the smallest change, in the same unit, that is seen where p must be below a level; None where no
            change is.
    """

    change: float
    p: float
    detectable: Callable[[float], float | None]


class _Row(NamedTuple):
    """What becomes a row when all tests are known."""

    row: ComparedRow
    test: Outcome | None


def compare(new: Sequence[BundleReport], old: Sequence[BundleReport], baseline: str) -> Comparison:
    """Every engine that both have: the same target, asked for in the same precision.

    Args:
        new: the bundles of this report.
        old: those of the earlier one.
        baseline: the earlier report, as the user named it.
    """
    now, then = ([each for each in columns_from_bundles(side) if each.measured] for side in (new, old))
    rows: list[_Row] = []
    facts: list[Fact] = []
    versions: list[Fact] = []
    for column in now:
        earlier = _earlier(column, then)
        if earlier is None:
            rows.append(_apart(column.label, "all", "the baseline has no such engine"))
            continue
        then.remove(earlier)
        rows += [*_speed_rows(column, earlier), *_accuracy_rows(column, earlier)]
        facts += _facts(column, earlier)
        versions += _versions(column, earlier)
    rows += [_apart(column.label, "all", "only the baseline has this engine") for column in then]
    return Comparison(
        baseline=baseline,
        error_rate=ERROR_RATE,
        rows=tuple(_judged(rows)),
        facts=tuple(dict.fromkeys((*facts, *versions))),
    )


def speed_test(old: Ratio, new: Ratio) -> Outcome:
    """Welch's t test that the logarithms of the sets of processes, at least two of each, lie within `_BETWEEN_RUNS`."""
    before, after = (np.log([np.median(rounds) for rounds in ratio.starts]) for ratio in (old, new))
    parts = [float(logs.var(ddof=1)) / len(logs) for logs in (before, after)]
    error, difference = math.sqrt(sum(parts)), float(after.mean() - before.mean())
    beyond, least = max(0.0, abs(difference) - _BETWEEN_RUNS), 100 * math.expm1(_BETWEEN_RUNS)
    if error == 0:
        return Outcome(100 * math.expm1(difference), float(beyond == 0), lambda level: least)
    degrees = sum(parts) ** 2 / sum(p * p / (len(logs) - 1) for p, logs in zip(parts, (before, after), strict=True))

    def detectable(level: float) -> float | None:
        # The noncentral t whose upper nine tenths lie beyond what is wanted of t.
        wanted = float(special.nctdtrinc(degrees, 1 - _POWER, special.stdtrit(degrees, 1 - level / 2)))
        smallest = _BETWEEN_RUNS + wanted * error
        return 100 * math.expm1(smallest) if smallest < _NOTHING_SEEN else None

    p = 2 * float(special.stdtr(degrees, -beyond / error))
    return Outcome(100 * math.expm1(difference), p, detectable)


def agreement_test(old: Accuracy, new: Accuracy) -> Outcome:
    """Fisher's exact test on the images whose answer is not PyTorch's."""
    before, after = (round((1 - each.agreement) * each.samples) for each in (old, new))
    p = partial(_fisher, before, old.samples, of=new.samples)
    expected = round(before * new.samples / old.samples)
    smallest = partial(_smallest, lambda extra: p(expected + extra), new.samples - expected)
    return Outcome(100 * (new.agreement - old.agreement), p(after), lambda level: _points(smallest(level), new.samples))


def top1_test(old: Accuracy, new: Accuracy) -> Outcome:
    """McNemar's exact test at its most conservative, of accuracies with labels on the same images."""
    lost = (new.lost or 0) - (new.gained or 0) - (old.lost or 0) + (old.gained or 0)
    before = (old.lost or 0) + (old.gained or 0)
    either = before + (new.lost or 0) + (new.gained or 0)
    smallest = partial(_smallest, lambda extra: _mcnemar(extra, 2 * before + extra), new.labelled)
    p = _mcnemar(abs(lost), either)
    return Outcome(-100 * lost / new.labelled, p, lambda level: _points(smallest(level), new.labelled))


def holm(ps: Sequence[float]) -> list[float]:
    """What each p becomes among so many (Holm 1979): below a level with at most that probability for any false one."""
    order = np.argsort(ps, kind="stable")
    scaled = np.asarray(ps)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(each) for each in adjusted]


def _fisher(first: int, images: int, second: int, *, of: int) -> float:
    """Two-sided p of ``first`` of ``images`` beside ``second`` of ``of``: of all tables no likelier than this one."""
    both = first + second
    possible = np.arange(max(0, both - images), min(of, both) + 1)
    logs = _log_ways(of, possible) + _log_ways(images, both - possible) - _log_ways(images + of, np.asarray(both))
    # Tables as likely as this one count, whatever rounding does to them.
    return min(1.0, float(np.exp(logs[logs <= logs[second - possible[0]] + 1e-7]).sum()))


def _log_ways(n: int, k: np.ndarray) -> np.ndarray:
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def _mcnemar(difference: int, changed: int) -> float:
    """Two-sided p that so many changes, each of either kind with probability ½, differ so much."""
    if difference == 0:
        return 1.0
    return min(1.0, 2 * float(special.bdtrc((changed + difference) // 2 - 1, changed, 0.5)))


def _smallest(p: Callable[[int], float], most: int, level: float) -> int | None:
    """The least count whose p is below the level, where p falls with it."""
    if p(most) >= level:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if p(middle) >= level else (low, middle)
    return high


def _points(count: int | None, images: int) -> float | None:
    return None if count is None else 100 * count / images


def _judged(rows: Sequence[_Row]) -> Iterator[ComparedRow]:
    tests = [row.test for row in rows if row.test is not None]
    adjusted = iter(holm([test.p for test in tests]))
    for row, test in rows:
        if test is None:
            yield row
            continue
        p = next(adjusted)
        verdict: Change = "unchanged" if p >= ERROR_RATE else "better" if test.change > 0 else "worse"
        detectable = test.detectable(ERROR_RATE / len(tests))
        if verdict == "unchanged" and detectable is None:
            hidden = "the sets of processes differ so much that" if row.unit == "×" else "the images are so few that"
            yield row.model_copy(update={"reason": f"{hidden} no change would be seen"})
            continue
        yield row.model_copy(update={"change": test.change, "p": p, "detectable": detectable, "verdict": verdict})


def _earlier(column: Column, then: Sequence[Column]) -> Column | None:
    """Its counterpart, on the same machine where there are several."""
    same = [each for each in then if (each.precision, each.report.target) == (column.precision, column.report.target)]
    here = [each for each in same if each.bundle.environment.hardware == column.bundle.environment.hardware]
    return next(iter((*here, *same)), None)


def _apart(engine: str, metric: str, reason: str) -> _Row:
    return _Row(ComparedRow(engine=engine, metric=metric, unit="×", verdict="not comparable", reason=reason), None)


def _speed_rows(now: Column, then: Column) -> Iterator[_Row]:
    new, old = now.report.benchmark, then.report.benchmark
    if new is None and old is None:
        return
    if new is None or old is None:
        where = "now" if new is None else "for the baseline"
        yield _apart(now.label, "speed-up", f"latency was not measured {where}")
        return
    if not new.references or not old.references:
        where = "now" if not new.references else "for the baseline"
        yield _apart(now.label, "speed-up", f"PyTorch was not measured beside it {where}")
        return
    for metric, form, ratio in _RATIOS:
        if metric == "speed-up over PyTorch's best form" and _eager_is_best(new) and _eager_is_best(old):
            continue  # eager is the best form: the same ratio
        reason = _other_settings(now, then, new, old) or _other_ratio(form(new), form(old), ratio(new), ratio(old))
        before, after = ratio(old), ratio(new)
        row = ComparedRow(
            engine=now.label,
            metric=metric,
            unit="×",
            old=before.value if before else None,
            new=after.value if after else None,
            verdict="not comparable",
            reason=reason,
        )
        yield _Row(row, speed_test(before, after) if before and after and not reason else None)


def _other_settings(now: Column, then: Column, new: Benchmark, old: Benchmark) -> str:
    """Why two runs do not compare, or nothing."""
    here, there = now.bundle.environment, then.bundle.environment
    if here.hardware != there.hardware:
        return f"another machine: {here.short_name}, was {there.short_name}"
    for what, is_now, was in (
        ("network", now.bundle.network, then.bundle.network),
        ("parameters", now.bundle.parameters, then.bundle.parameters),
        ("preprocessing", str(now.bundle.preprocess), str(then.bundle.preprocess)),
        ("input", now.bundle.input, then.bundle.input),
        ("governor", here.governor, there.governor),
        # It is what the engine is compared with.
        ("PyTorch", here.versions.get("torch"), there.versions.get("torch")),
        ("threads", new.latency.threads, old.latency.threads),
        ("batch", new.latency.batch, old.latency.batch),
    ):
        if is_now != was:
            return f"{what} {is_now}, was {was}"
    # Welch's test takes different numbers of sets; all else changes what a set is.
    return "the bench settings differ" if now.bundle.bench.protocol != then.bundle.bench.protocol else ""


def _other_ratio(form: str, old_form: str, new: Ratio | None, old: Ratio | None) -> str:
    if form != old_form:
        return f"PyTorch's form is {form}, was {old_form}"
    for ratio, where in ((new, "now"), (old, "in the baseline")):
        if ratio is None:
            return f"it is withheld {where}"
        if len(ratio.starts) < _LEAST_SETS:
            return f"one set of processes {where} tells no noise"
    return ""


def _accuracy_rows(now: Column, then: Column) -> Iterator[_Row]:
    new, old = now.report.accuracy, then.report.accuracy
    if new is None or old is None:
        return
    reason = next((f"other {what}" for what, value in _OF_ACCURACY.items() if value(now) != value(then)), "")
    rows: list[tuple[str, float | None, float | None, Callable[[Accuracy, Accuracy], Outcome]]] = [
        ("agreement with PyTorch", old.agreement, new.agreement, agreement_test)
    ]
    if old.top1 is not None and new.top1 is not None:
        rows.append(("top-1", old.top1, new.top1, top1_test))
    for metric, before, after, test in rows:
        row = ComparedRow(
            engine=now.label,
            metric=metric,
            unit="%",
            old=None if before is None else 100 * before,
            new=None if after is None else 100 * after,
            verdict="not comparable",
            reason=reason,
        )
        yield _Row(row, None if reason else test(old, new))


def _answered(column: Column) -> tuple[int, int]:
    """How many images, and how many with labels: a device may have the bundle's samples only."""
    accuracy = column.report.accuracy
    return (0, 0) if accuracy is None else (accuracy.samples, accuracy.labelled)


def _facts(now: Column, then: Column) -> list[Fact]:
    new, old = now.report, then.report
    found = [
        ("engine size", *(megabytes(each.bytes) for each in (old, new))),
        ("executed precision", *(str(each.executed_precision or "not run") for each in (old, new))),
    ]
    if old.accuracy is not None and new.accuracy is not None:
        found.append(("centred SNR", old.accuracy.snr_text, new.accuracy.snr_text))
    return [Fact(engine=now.label, what=what, old=before, new=after) for what, before, after in found]


def _versions(now: Column, then: Column) -> Iterator[Fact]:
    """Packages and drivers that are others now."""
    after, before = (_all_versions(each.bundle.environment) for each in (now, then))
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield Fact(engine="", what=name, old=before.get(name, "none"), new=after.get(name, "none"))


def _all_versions(machine: Environment) -> dict[str, str]:
    driver = {name: version for name, version in machine.gpu.items() if name == "driver"}
    return {**machine.versions, **driver, "Python": machine.python}


def _eager_is_best(benchmark: Benchmark) -> bool:
    return benchmark.best_reference is benchmark.references[0]


_RATIOS: tuple[tuple[str, Callable[[Benchmark], str], Callable[[Benchmark], Ratio | None]], ...] = (
    (
        "speed-up over PyTorch eager",
        lambda benchmark: benchmark.references[0].form,
        lambda benchmark: benchmark.over_eager,
    ),
    (
        "speed-up over PyTorch's best form",
        lambda benchmark: benchmark.best_reference.form,
        lambda benchmark: benchmark.over_best,
    ),
)
# What must be equal for two accuracies to compare.
_OF_ACCURACY: dict[str, Callable[[Column], object]] = {
    "weights": lambda column: column.bundle.weights.digest,
    "preprocessing": lambda column: column.bundle.preprocess,
    "test images": lambda column: (column.bundle.golden.test_digest, *_answered(column)),
}
