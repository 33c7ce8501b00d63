"""The forms of PyTorch that engines are measured beside: eager FP32, and the best of those that compete."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnexport.data.images import Fed
from dnexport.deploy.engine import Engine
from dnexport.errors import DnexportError, WorkerCrashed
from dnexport.measure.latency import Answering, Probe, WarmUp, warmed_up
from dnexport.measure.statistics import median
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.torch_eager import Device, Form, TorchSession, cuda_usable, forms_on
from dnexport.spec.recipe import Bench

_SHORT_MS = 10.0

WarmSession = tuple[Answering, WarmUp]


class _Forms:
    """Sessions of one PyTorch module, by form; it lives in a worker."""

    def __init__(self, factory: Callable[[], Any], images: Fed, threads: int) -> None:
        self._factory, self._images, self._threads = factory, images, threads
        self._module = factory()
        self._probes: dict[Form, Probe] = {}

    def open(self, form: Form) -> None:
        """Make a session of a copy of the module, in place of one that was there."""
        self._probes[form] = Probe(functools.partial(TorchSession, self._copy, form, self._threads), self._images)

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


_FormSession = tuple[_InProcess, WarmUp]


class References:
    """PyTorch's forms, on the devices that the engines use.

    Args:
        factory: makes the module in a worker; None where PyTorch or the weights are not here.
        images: float32, that blocks of queries take in turn.
        bench: how latency is measured.
        engines: that are measured beside.

    Attributes:
        tried: by device, the median of each form's trial in milliseconds.
        failed: why a form took no part.
    """

    def __init__(self, factory: Callable[[], Any] | None, images: Fed, bench: Bench, engines: Sequence[Engine]) -> None:
        self._factory, self._images, self._bench = factory, images, bench
        devices = _devices(engines) if factory else []
        self.tried: dict[Device, dict[Form, float]] = {device: {} for device in devices}
        self.failed: dict[Form, str] = {}

    def best(self, device: Device) -> Form:
        """The fastest form there."""
        return min(self.tried[device], key=lambda form: self.tried[device][form])

    def kept(self, device: Device) -> list[Form]:
        """Eager FP32 first; then the best form, if it is another; none where there is no PyTorch."""
        tried = self.tried.get(device)
        return list(dict.fromkeys((Form(device=device), self.best(device)))) if tried else []

    def swept(self, device: Device) -> list[Form]:
        """What stands beside a sweep: the best form; where it is faster on one thread, larger batches need them all."""
        wanted = "offline" in self._bench.scenarios and self.tried.get(device)
        best = [self.best(device)] if wanted else []
        return [*best, *(dataclasses.replace(form, single=False) for form in best if form.single)]

    def opened(self, stack: contextlib.ExitStack) -> dict[str, WarmSession]:
        """The forms that are kept, warmed up, in a new process a device; the first time all forms are tried there."""
        sessions: dict[str, WarmSession] = {}
        for device, tried in self.tried.items():
            if tried:
                found = self._opened(self._wanted(device), stack)
            else:
                found = self._opened(forms_on(device, compiled=self._bench.compile), stack)
                tried |= {form: median(before.last_ms) for form, (_, before) in found.items()}
                found |= self._on_one_thread(device, found)
            sessions |= {str(form): found[form] for form in self._wanted(device)}
        return sessions

    def _wanted(self, device: Device) -> list[Form]:
        return list(dict.fromkeys((*self.kept(device), *self.swept(device))))

    def _on_one_thread(self, device: Device, found: Mapping[Form, _FormSession]) -> dict[Form, _FormSession]:
        """The best form on one thread, where queries are so short that threads may cost more than they bring."""
        best = self.best(device)
        several = self._bench.threads is None and available_threads() > 1 and device == "cpu"
        if not several or self.tried[device][best] > _SHORT_MS:
            return {}
        form = dataclasses.replace(best, single=True)
        session = self._warm(found[best][0].worker, form)
        self.tried[device][form] = median(session[1].last_ms)
        return {form: session}

    def _opened(self, forms: Sequence[Form], stack: contextlib.ExitStack) -> dict[Form, _FormSession]:
        """Forms of one device, in one process: they share PyTorch, and answer in turn."""
        threads = self._bench.threads or available_threads()
        worker = stack.enter_context(Worker("measuring PyTorch", threads=threads))
        worker.create(_Forms, self._factory, self._images, threads)
        found = {}
        for form in forms:
            try:
                found[form] = self._warm(worker, form)
            except DnexportError as exc:  # torch.compile needs a C++ compiler, bf16 a kernel for each layer
                if form in (Form(device=form.device), *self._wanted(form.device)):
                    raise
                self.failed[form] = str(exc)
                if isinstance(exc, WorkerCrashed):  # and the others with it
                    return self._opened([each for each in forms if each != form], stack)
        return found

    def _warm(self, worker: Worker, form: Form) -> _FormSession:
        worker.method("open", form)
        session = _InProcess(worker, form)
        return session, warmed_up(session, self._bench.batch, self._bench.block_s)


def _devices(engines: Sequence[Engine]) -> list[Device]:
    """Where PyTorch can stand beside these engines."""
    devices: list[Device] = ["cpu"] if any(engine.target.device != "cuda" for engine in engines) else []
    if any(engine.target.device == "cuda" for engine in engines):
        with Worker("looking for a GPU with PyTorch") as worker:
            devices += ["cuda"] if worker.call(cuda_usable) else []
    return devices
