"""The forms of PyTorch that engines are measured beside: eager FP32, and the fastest of those that compete.

All forms are screened once, for a short while each. The three fastest, and eager FP32, are measured in full in every
set of processes; the best form is the one of these with the smallest median.
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dnexport.data.images import Fed
from dnexport.deploy.engine import Engine
from dnexport.errors import DnexportError, WorkerCrashed
from dnexport.measure.latency import Answering, Probe, WarmUp, warmed_up
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.torch_eager import Device, Form, TorchSession, cuda_usable, forms_on
from dnexport.spec.recipe import Bench

_IN_FULL = 3
# A form whose first two queries take so many times as long as the fastest is not queried again.
_HOPELESS = 2.0

WarmSession = tuple[Answering, WarmUp]


class _Forms:
    """Sessions of one PyTorch module, by form; it lives in a worker."""

    def __init__(self, factory: Callable[[], Any], images: Fed, threads: int | None) -> None:
        self._factory, self._images, self._threads = factory, images, threads
        self._module = factory()
        self._probes: dict[Form, Probe] = {}

    def open(self, form: Form) -> int:
        """Make a session of a copy of the module, in place of one that was there; its threads."""
        session = TorchSession(self._copy, form, self._threads)
        self._probes[form] = Probe(lambda: session, self._images)
        return session.threads

    def _copy(self) -> Any:
        try:
            return copy.deepcopy(self._module)
        except Exception:  # a module of the user's own may hold what cannot be copied
            return self._factory()

    def of(self, form: Form, method: str, *arguments: Any) -> Any:
        """What a session's probe answers."""
        return getattr(self._probes[form], method)(*arguments)


@dataclass(frozen=True)
class _InProcess:
    """One of the sessions in a worker that holds `_Forms`."""

    worker: Worker
    form: Form

    @property
    def process(self) -> int:
        return self.worker.process

    def method(self, name: str, *args: Any) -> Any:
        return self.worker.method("of", self.form, name, *args)


class References:
    """PyTorch's forms, on the devices that the engines use.

    Args:
        factory: makes the module in a worker; None where PyTorch or the weights are not here.
        images: float32, that blocks of queries take in turn.
        bench: how latency is measured.
        engines: that are measured beside.

    Attributes:
        tried: by device, the median of each form's screening in milliseconds.
        failed: why a form took no part.
        threads: of the forms that are measured in full.
    """

    def __init__(self, factory: Callable[[], Any] | None, images: Fed, bench: Bench, engines: Sequence[Engine]) -> None:
        self._factory, self._images, self._bench = factory, images, bench
        devices = _devices(engines) if factory else []
        self.tried: dict[Device, dict[Form, float]] = {device: {} for device in devices}
        self.failed: dict[Form, str] = {}
        self.threads: dict[Form, int] = {}

    def best(self, device: Device) -> Form:
        """The form that was the fastest in the screening."""
        return min(self.tried[device], key=lambda form: self.tried[device][form])

    def kept(self, device: Device) -> list[Form]:
        """What is measured in full: eager FP32 and the three fastest forms; nothing where there is no PyTorch."""
        tried = self.tried.get(device, {})
        fastest = sorted(tried, key=lambda form: tried[form])[:_IN_FULL]
        return list(dict.fromkeys((Form(device=device), *fastest))) if tried else []

    def swept(self, device: Device) -> list[Form]:
        """What stands beside a sweep: the best form; where it is faster on one thread, larger batches need them all."""
        wanted = "offline" in self._bench.scenarios and self.tried.get(device)
        best = [self.best(device)] if wanted else []
        return [*best, *(dataclasses.replace(form, single=False) for form in best if form.single)]

    def opened(self, stack: contextlib.ExitStack) -> dict[str, WarmSession]:
        """The forms that are kept, warmed up, in a new process a device; the first time all forms are screened.

        Raises:
            DnexportError: eager FP32 fails, or a form that the screening has kept.
        """
        sessions: dict[str, WarmSession] = {}
        for device, tried in self.tried.items():
            if not tried:
                self._screen(device)
            worker = self._worker(stack)
            sessions |= {str(form): self._warm(worker, form) for form in self._wanted(device)}
        return sessions

    def _wanted(self, device: Device) -> list[Form]:
        return list(dict.fromkeys((*self.kept(device), *self.swept(device))))

    def _worker(self, stack: contextlib.ExitStack) -> Worker:
        """A process for the forms of one device: they share PyTorch, and answer in turn."""
        worker = stack.enter_context(Worker("measuring PyTorch", parked=True))
        worker.create(_Forms, self._factory, self._images, self._bench.threads)
        return worker

    def _screen(self, device: Device) -> None:
        """Time every form for a short while, in a process that ends with it."""
        tried = self.tried[device]
        several = self._bench.threads is None and available_threads() > 1 and device == "cpu"
        left = list(forms_on(device, compiled=self._bench.compile, single=several))
        while left:
            with contextlib.ExitStack() as stack:
                worker = self._worker(stack)
                while left:
                    form = left.pop(0)
                    hopeless_ms = _HOPELESS * min(tried.values(), default=math.inf)
                    try:
                        worker.method("open", form)
                        tried[form] = worker.method("of", form, "screened", self._bench.batch, hopeless_ms)
                    except DnexportError as exc:  # torch.compile needs a C++ compiler, bf16 a kernel for each layer
                        if form == Form(device=device):
                            raise
                        self.failed[form] = str(exc)
                        if isinstance(exc, WorkerCrashed):
                            break  # the others in a new process

    def _warm(self, worker: Worker, form: Form) -> WarmSession:
        self.threads[form] = worker.method("open", form)
        session = _InProcess(worker, form)
        return session, warmed_up(session, self._bench.batch, self._bench.block_s)


def _devices(engines: Sequence[Engine]) -> list[Device]:
    """Where PyTorch can stand beside these engines."""
    devices: list[Device] = ["cpu"] if any(engine.target.device != "cuda" for engine in engines) else []
    if any(engine.target.device == "cuda" for engine in engines):
        with Worker("looking for a GPU with PyTorch") as worker:
            devices += ["cuda"] if worker.call(cuda_usable) else []
    return devices
