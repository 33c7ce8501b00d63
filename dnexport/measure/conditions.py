"""What else happened while something was measured: clocks, temperatures, other programs."""

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from dnexport.runtimes.gpu import gpu_readings
from dnexport.spec.latency import Conditions

_BUSY = slice(0, 8)  # user nice system idle iowait irq softirq steal; guests are part of the first two
_IDLE = (3, 4)


class Watch:
    """Conditions of a measurement, and what share of the processors' time went to others meanwhile."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._readings: list[Conditions] = []
        self._others = 0.0
        self._all = 0.0
        self.read()

    @property
    def readings(self) -> tuple[Conditions, ...]:
        """So far."""
        return tuple(self._readings)

    @property
    def others_share(self) -> float | None:
        """Of the processors' time in the spans that were watched; None where the system does not tell."""
        return max(0.0, self._others / self._all) if self._all else None

    def read(self) -> None:
        """Take a reading."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        at = time.monotonic() - self._began
        self._readings.append(Conditions(at_s=at, load_average=load, cpu_mhz=_cpu_mhz(), **gpu_readings()))

    @contextlib.contextmanager
    def span(self, processes: Collection[int]) -> Iterator[None]:
        """Watch the processors while ``processes`` and this one work; what they take is not others'."""
        before, own_before = _processors(), _own(processes)
        yield
        after, own_after = _processors(), _own(processes)
        if before is None or after is None or own_before is None or own_after is None:
            return
        self._others += (after[0] - before[0]) - (own_after - own_before)
        self._all += after[1] - before[1]


def _processors() -> tuple[float, float] | None:
    """Seconds that the processors of this process have worked, for whomever, and seconds they have had."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ours = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        rows = [[float(each) for each in line[1:]][_BUSY] for line in lines if line and line[0] in ours]
    except (OSError, ValueError, AttributeError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    idle = sum(row[index] for row in rows for index in _IDLE)
    return (sum(map(sum, rows)) - idle) / ticks, sum(map(sum, rows)) / ticks


def _own(processes: Collection[int]) -> float | None:
    """Seconds that these processes and this one have worked, and those they started, a compiler for instance."""
    total = sum(os.times()[:4])
    for process in processes:
        try:
            # The name before the last parenthesis may hold spaces.
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _cpu_mhz() -> float | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(clocks) / len(clocks) if clocks else None
