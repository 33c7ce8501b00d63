"""Budgets: what an engine is required to keep, in one string: ``top1-drop<=0.5``, ``p99<=5ms``, ``size<=10MB``.

``parse`` and ``str`` are inverse. Whether a budget is met is judged on the bounds of an interval, not on its middle
(`measure.budgets`).
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import model_validator

from dnexport.errors import UsageError
from dnexport.spec.record import Record, nearest

Relation = Literal["<=", ">="]
_FORM = re.compile(r"([a-z0-9-]+)\s*(<=|>=)\s*(\d+(?:\.\d+)?)\s*([A-Za-z%×/]*)")


@dataclass(frozen=True)
class Metric:
    """What a budget may be about.

    Attributes:
        about: what it is, in words.
        relation: which side of the limit is wanted.
        unit: of the limit where none is said.
        units: other units that are understood, in terms of ``unit``.
        queries: without which nothing bounds it from above.
    """

    about: str
    relation: Relation
    unit: str
    units: dict[str, float]
    queries: int = 0


_TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3}
METRICS = {
    "top1-drop": Metric("loss of top-1 against PyTorch, in points", "<=", "points", {"%": 1.0, "point": 1.0}),
    "top1": Metric("share of labelled images that are right", ">=", "%", {}),
    "agreement": Metric("share of images on which the engine and PyTorch name the same class", ">=", "%", {}),
    "snr": Metric("signal-to-noise ratio of the logits against PyTorch's", ">=", "dB", {}),
    "p50": Metric("median latency of a query", "<=", "ms", _TIME),
    "p90": Metric("90th percentile of latency", "<=", "ms", _TIME, queries=44),
    "p99": Metric("99th percentile of latency", "<=", "ms", _TIME, queries=459),
    "throughput": Metric("images a second, one query at a time", ">=", "images/s", {"/s": 1.0}),
    "speedup": Metric("times faster than PyTorch's best form", ">=", "×", {"x": 1.0}),
    "size": Metric("size of the engine file", "<=", "MB", {"kB": 1e-3, "GB": 1e3}),
}


class Budget(Record):
    """One requirement.

    Attributes:
        metric: one of `METRICS`.
        limit: in the metric's unit.
    """

    metric: str
    limit: float

    @model_validator(mode="after")
    def _known(self) -> "Budget":
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'")
        if not 0 <= self.limit < float("inf"):
            raise ValueError("a limit is a number from 0 on")
        return self

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read the string form.

        Raises:
            UsageError: not of that form, an unknown metric or unit, the side that nobody wants, or a percentage of at
                most 1 without its unit, which may be a share.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"budget '{text}' is not of the form metric<=number", "write --require 'p99<=5ms'")
        name, relation, number, unit = match.groups()
        if name not in METRICS:
            raise UsageError(f"budget '{text}' is about an unknown metric", nearest(name, list(METRICS)))
        metric = METRICS[name]
        if relation != metric.relation:
            raise UsageError(
                f"budget '{text}' bounds {metric.about} from the side that nobody wants",
                f"write {name}{metric.relation}{number}{unit}",
            )
        factors = {"": 1.0, metric.unit: 1.0, **metric.units}
        if unit not in factors:
            known = ", ".join(each for each in factors if each)
            raise UsageError(f"budget '{text}' has the unit '{unit}'", f"use {known}")
        if metric.unit == "%" and not unit and 0 < Decimal(number) <= 1:
            meant = f"{Decimal(number) * 100:f}"
            meant = meant.rstrip("0").rstrip(".") if "." in meant else meant
            raise UsageError(
                f"budget '{text}' asks for {number} percent, and a share may be meant",
                f"did you mean {name}{relation}{meant}%? else write {name}{relation}{number}%",
            )
        # In decimal, so that 9us is 0.009 ms and not a neighbour of it.
        return cls(metric=name, limit=float(Decimal(number) * Decimal(str(factors[unit]))))

    def __str__(self) -> str:
        metric = METRICS[self.metric]
        limit = f"{Decimal(repr(self.limit)):f}"  # without an exponent, and as short as reads back equal
        limit = limit.rstrip("0").rstrip(".") if "." in limit else limit
        gap = " " if metric.unit.isalpha() and len(metric.unit) > 2 else ""
        return f"{self.metric}{metric.relation}{limit}{gap}{metric.unit}"


def budgets_from_texts(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Several budgets.

    Raises:
        UsageError: one that cannot be read, or two of one metric.
    """
    budgets = tuple(Budget.parse(text) for text in texts)
    for metric, count in Counter(each.metric for each in budgets).items():
        if count > 1:
            both = " and ".join(str(each) for each in budgets if each.metric == metric)
            raise UsageError(f"'{metric}' has {count} budgets: {both}", "keep one")
    return budgets


Verdict = Literal["pass", "fail", "undecided"]


class Judgement(Record):
    """A budget and what was measured.

    Attributes:
        budget: its string form.
        target: of the engine.
        value: measured, in the metric's unit; None where it was not measured.
        low: lower end of its 95 % interval; equal to ``value`` where there is nothing to be unsure of.
        high: upper end.
        verdict: ``pass`` where the whole interval keeps the limit, ``fail`` where none of it does.
        reason: why it is undecided, and what would decide it.
    """

    budget: str
    target: str
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    reason: str = ""

    def __str__(self) -> str:
        unit = METRICS[Budget.parse(self.budget).metric].unit
        words = {"pass": "passed", "fail": "FAILED", "undecided": "UNDECIDED"}[self.verdict]
        found = "not measured" if self.value is None else f"{self.value:.4g} {unit}"
        if self.low is not None and self.high is not None and self.low != self.high:
            found += f" ({self.low:.4g} to {self.high:.4g})"
        elif self.value is None and self.low is not None:
            found = f"at least {self.low:.4g} {unit}"
        return f"{words}: {self.budget} on {self.target}: {found}" + (f"; {self.reason}" if self.reason else "")
