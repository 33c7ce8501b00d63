"""What became better or worse since an earlier report, beyond noise, as nouns. `report.compare` decides it."""

from typing import Literal

from dnexport.spec.record import Record

Change = Literal["worse", "better", "unchanged", "not comparable"]


class ComparedRow(Record):
    """One metric of one engine, now and in the earlier report.

    Attributes:
        engine: precision and target.
        metric: in words.
        unit: of the values and the changes: ``×`` (whose changes are in %) or ``%`` (in points).
        old: of the earlier report; None where it is not there.
        new: of this one; None likewise.
        change: in % of the old value, or in points; positive is better; None where it is not comparable.
        p: of no change, after Holm's correction; None likewise.
        detectable: the smallest change that would have been seen (`report.compare`); None likewise.
        verdict: what may be said.
        reason: why it is not comparable.
    """

    engine: str
    metric: str
    unit: Literal["×", "%"]
    old: float | None = None
    new: float | None = None
    change: float | None = None
    p: float | None = None
    detectable: float | None = None
    verdict: Change
    reason: str = ""

    @property
    def old_text(self) -> str:
        """The earlier value with its unit."""
        return self._text(self.old)

    @property
    def new_text(self) -> str:
        """This one's."""
        return self._text(self.new)

    def _text(self, value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}{'×' if self.unit == '×' else ' %'}"

    def __str__(self) -> str:
        if self.change is None:
            return f"not comparable: {self.reason}"
        unit = "%" if self.unit == "×" else "points"
        if self.verdict != "unchanged":
            return f"{self.verdict} by {abs(self.change):.2g} {unit} (p = {self.p:.1g})"
        return f"no change beyond noise; more than {self.detectable:.2g} {unit} would have been seen"


class Fact(Record):
    """What has no noise: it is the same or it is not.

    Attributes:
        engine: precision and target; empty for what the whole machine has.
        what: in words.
        old: in words.
        new: in words.
    """

    engine: str
    what: str
    old: str
    new: str

    @property
    def changed(self) -> bool:
        """Whether it did."""
        return self.old != self.new

    def __str__(self) -> str:
        return f"{self.engine}{': ' if self.engine else ''}{self.what} {self.old} → {self.new}"


class Comparison(Record):
    """This report against an earlier one.

    Attributes:
        baseline: the earlier one, as the user named it.
        error_rate: probability that any row says worse or better though nothing changed.
        rows: what was tested.
        facts: engine size, executed precision and SNR, and versions that differ.
    """

    baseline: str
    error_rate: float
    rows: tuple[ComparedRow, ...]
    facts: tuple[Fact, ...]

    @property
    def exit_code(self) -> int:
        """6 where anything is worse, 7 where the speed or the accuracy of an engine could not be compared, else 0."""
        if any(row.verdict == "worse" for row in self.rows):
            return 6
        # One speed-up is enough: PyTorch's best form may be another now.
        compared: dict[tuple[str, bool], bool] = {}
        for row in self.rows:
            kind = row.engine, row.metric.startswith("speed-up")
            compared[kind] = compared.get(kind, False) or row.verdict != "not comparable"
        return 0 if compared and all(compared.values()) else 7
