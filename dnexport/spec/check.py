"""What ``dnexport check`` finds of a bundle on the machine it runs on."""

from typing import Literal

from dnexport.spec.record import Record


class Tap(Record):
    """A place inside of the network: the end of the stem or of a block.

    Attributes:
        name: of the value in the graph.
        snr_db: of the engine's values there against those the build recorded; None when equal.
    """

    name: str
    snr_db: float | None


class SelfTest(Record):
    """Golden samples through an engine, at the profile's smallest and largest batch.

    Attributes:
        samples: how many.
        batches: images a query.
        snr_db: the worst centred SNR against the reference's logits; None when exact.
        floor_db: what the build measured, less 6 dB, by which so few samples may differ from all.
        agreement: share of samples on which both name the same class, at the worst batch.
        between_db: SNR between the two batches; None when they are equal.
        passed: it is at the floor or above.
        taps: from the input to the output, where it failed.
    """

    samples: int
    batches: tuple[int, ...]
    snr_db: float | None
    floor_db: float
    agreement: float
    between_db: float | None
    passed: bool
    taps: tuple[Tap, ...] = ()

    @property
    def diverges(self) -> str | None:
        """Where a failed engine goes wrong, in words."""
        if not self.taps:
            return None
        for before, tap in zip((None, *self.taps), self.taps, strict=False):
            if tap.snr_db is not None and tap.snr_db < self.floor_db:
                since = f"after {before.name}" if before else "between the input"
                return f"it goes wrong {since} and at {tap.name} ({tap.snr_db:.1f} dB)"
        return f"it is right up to {self.taps[-1].name}: what follows goes wrong, or only without taps"


class Checked(Record):
    """One target of a bundle on this machine.

    Attributes:
        target: its string form.
        verdict: ``load`` its engine; ``rebuild`` it here, with ``dnexport compile``; or ``never``: it cannot run here.
        reason: why.
        remedy: what to do about it; empty where nothing is to be done.
        warnings: what is known against the libraries here.
        self_test: of an engine that may be loaded.
        seconds: it took.
    """

    target: str
    verdict: Literal["load", "rebuild", "never"]
    reason: str
    remedy: str = ""
    warnings: tuple[str, ...] = ()
    self_test: SelfTest | None = None
    seconds: float = 0.0

    @property
    def usable(self) -> bool:
        """The engine can be used as it is."""
        return self.verdict == "load" and self.self_test is not None and self.self_test.passed
