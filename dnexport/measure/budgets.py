"""Judge budgets on the bounds of intervals: what is not sure either way is undecided, and says what would decide it."""

from collections.abc import Sequence

from dnexport.measure.statistics import (
    median,
    paired_drop_interval,
    quantile_interval,
    ratio_interval,
    share_interval,
)
from dnexport.spec.budget import METRICS, Budget, Judgement, Verdict
from dnexport.spec.latency import Latency
from dnexport.spec.metrics import Accuracy, TargetReport

_QUANTILES = {"p90": 0.90, "p99": 0.99}
_OF_ACCURACY = ("top1", "top1-drop", "agreement", "snr")
ONE_CLASS = "a network of one class has no top-1: it always names that class"
_MOST_IMAGES = 1 << 30
_EXACT_DB = 200.0  # what equal logits count as, which have no noise at all

# Value and the two ends of its interval; an end is None where nothing bounds it, all are where nothing was measured.
_Found = tuple[float | None, float | None, float | None]
_NOTHING: _Found = (None, None, None)


def judgements(budgets: Sequence[Budget], report: TargetReport) -> tuple[Judgement, ...]:
    """What each budget comes to for one target."""
    return tuple(_judged(budget, report) for budget in budgets)


def exit_code(found: Sequence[Judgement]) -> int:
    """0, 6 where one failed, else 7 where one is undecided."""
    verdicts = {each.verdict for each in found}
    return 6 if "fail" in verdicts else 7 if "undecided" in verdicts else 0


def _judged(budget: Budget, report: TargetReport) -> Judgement:
    value, low, high = _found(budget.metric, report)
    verdict = _verdict(budget, low, high)
    reason = "" if verdict != "undecided" else _reason(budget, value, report)
    return Judgement(
        budget=str(budget), target=report.target, value=value, low=low, high=high, verdict=verdict, reason=reason
    )


def _verdict(budget: Budget, low: float | None, high: float | None) -> Verdict:
    """The whole interval within, the whole outside, or neither."""
    within, outside = (high, low) if METRICS[budget.metric].relation == "<=" else (low, high)
    sign = 1 if METRICS[budget.metric].relation == "<=" else -1
    if within is not None and sign * within <= sign * budget.limit:
        return "pass"
    return "fail" if outside is not None and sign * outside > sign * budget.limit else "undecided"


def _found(metric: str, report: TargetReport) -> _Found:
    if metric == "size":
        return _exact(None if report.bytes is None else report.bytes / 1e6)
    if metric in _OF_ACCURACY:
        return _NOTHING if report.accuracy is None else _of_accuracy(metric, report.accuracy)
    if report.benchmark is None:
        return _NOTHING
    if metric == "speedup":
        ratio = report.benchmark.over_best
        return _NOTHING if ratio is None else (ratio.value, ratio.low, ratio.high)
    return _of_latency(metric, report.benchmark.latency)


def _exact(value: float | None) -> _Found:
    return value, value, value


def _of_accuracy(metric: str, accuracy: Accuracy) -> _Found:
    if metric == "snr" and not accuracy.centred:
        return accuracy.snr_db, None, None
    if metric == "snr":
        return _exact(_EXACT_DB if accuracy.snr_db is None else accuracy.snr_db)
    if metric == "agreement":
        low, high = share_interval(round(accuracy.agreement * accuracy.samples), accuracy.samples)
        return 100 * accuracy.agreement, 100 * low, 100 * high
    if accuracy.top1 is None or accuracy.lost is None or accuracy.gained is None:
        return _NOTHING
    if metric == "top1":
        low, high = share_interval(round(accuracy.top1 * accuracy.labelled), accuracy.labelled)
        return 100 * accuracy.top1, 100 * low, 100 * high
    low, high = paired_drop_interval(accuracy.lost, accuracy.gained, accuracy.labelled)
    return accuracy.drop, 100 * low, 100 * high


def _of_latency(metric: str, latency: Latency) -> _Found:
    # Sets of processes differ, which no number of queries within one shows.
    if metric == "throughput":
        rates = [(1e3 * latency.batch * len(each) / sum(each),) for each in latency.samples_by_set]
        return latency.images_per_second, *ratio_interval(rates)[1:]
    if metric == "p50":
        return latency.p50_ms, *ratio_interval([(median(each),) for each in latency.samples_by_set])[1:]
    # Above, the bound that the report shows.
    low, _ = quantile_interval(latency.samples_ms, _QUANTILES[metric])
    if metric == "p90":
        return latency.p90_ms, low, latency.p90_bound_ms
    return latency.p99_ms, low, latency.p99_bound_ms


def _reason(budget: Budget, value: float | None, report: TargetReport) -> str:
    if budget.metric in ("top1", "top1-drop") and report.accuracy is not None and report.accuracy.top1 is None:
        if report.accuracy.auroc is not None:
            return "a multi-label network has no top-1; its report has the AUROC of each class"
        if report.accuracy.one_class:
            return ONE_CLASS
        return "the test images have no labels; add --data DIR"
    if value is None and _found(budget.metric, report) == _NOTHING:
        return _how(budget.metric, report)
    accuracy = report.accuracy
    if budget.metric == "top1-drop" and accuracy is not None and accuracy.lost is not None:
        return _more_images(budget, accuracy)
    if budget.metric == "snr":
        return "images with one answer, or a single one, have no centred ratio; more images would decide it"
    if budget.metric in ("top1", "agreement"):
        return "more images would decide it"
    if budget.metric in _QUANTILES:
        return "more queries would decide it"
    return "more sets of processes ('dnexport bench --restarts') would decide it"


def _more_images(budget: Budget, accuracy: Accuracy) -> str:
    """How many labelled images more would decide, if they change sides as often as those that were seen."""
    lost, gained, seen = accuracy.lost or 0, accuracy.gained or 0, accuracy.labelled
    needed = seen
    while needed < _MOST_IMAGES:
        needed = needed + max(1, needed // 50)
        share = needed / seen
        low, high = paired_drop_interval(round(lost * share), round(gained * share), needed)
        if _verdict(budget, 100 * low, 100 * high) != "undecided":
            return f"about {needed - seen} more labelled images would decide it"
    return "it lies on the limit"


def _how(metric: str, report: TargetReport) -> str:
    """The command that measures it."""
    if metric == "speedup" and report.benchmark is not None:
        return "there is no speed-up, and a note on the measurement says why"
    if report.file is None:
        return "there is no engine yet: 'dnexport compile' builds it on its device"
    command = "validate" if metric in _OF_ACCURACY else "bench"
    return f"'dnexport {command}' judges it where the engine runs"
