"""The batch sizes an engine accepts and the one it is tuned for: ``1..1..8`` is min, opt, max."""

import re

from pydantic import model_validator

from dnexport.errors import UsageError
from dnexport.spec.record import Record

_FORM = re.compile(r"(\d+)(?:\.\.(\d+)\.\.(\d+))?")


class Profile(Record):
    """Batch sizes with 1 ≤ min ≤ opt ≤ max."""

    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 8

    @model_validator(mode="after")
    def _check(self) -> "Profile":
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError(f"'{self}' is not 1 <= min <= opt <= max")
        return self

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Read ``min..opt..max`` or one fixed size.

        Raises:
            UsageError: not of that form, or not ascending.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"batch '{text}' is not of the form min..opt..max", "write --batch 1..1..8 or --batch 4")
        low = int(match[1])
        opt, high = (int(match[2]), int(match[3])) if match[2] else (low, low)
        if not 1 <= low <= opt <= high:
            raise UsageError(f"batch '{text}' is not 1 <= min <= opt <= max", "write --batch 1..1..8")
        return cls(min_batch=low, opt_batch=opt, max_batch=high)

    def within(self, batch: int) -> int:
        """The batch size nearest to ``batch`` that is accepted."""
        return min(max(batch, self.min_batch), self.max_batch)

    def holds(self, batch: int) -> bool:
        """Whether ``batch`` is accepted."""
        return self.within(batch) == batch

    def __str__(self) -> str:
        if self.min_batch == self.max_batch:
            return str(self.min_batch)
        return f"{self.min_batch}..{self.opt_batch}..{self.max_batch}"
