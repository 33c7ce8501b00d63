"""The forms of PyTorch that engines are measured beside: eager FP32, and the best of those that compete."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dnexport.data.images import Fed
from dnexport.deploy.engine import Engine
from dnexport.errors import DnexportError
from dnexport.measure.latency import Probe, WarmUp, warmed_up
from dnexport.measure.statistics import median
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.torch_eager import Device, Form, TorchSession, cuda_usable, forms_on
from dnexport.spec.recipe import Bench

_SHORT_MS = 10.0

WarmSession = tuple[Worker, WarmUp]


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

    def opened(self, stack: contextlib.ExitStack) -> dict[str, WarmSession]:
        """The forms that are kept, warmed up, in new processes; the first time all forms are tried."""
        sessions: dict[str, WarmSession] = {}
        for device, tried in self.tried.items():
            found = self._opened(self.kept(device) or forms_on(device, compiled=self._bench.compile), stack)
            if not tried:
                tried.update({form: median(before.last_ms) for form, (_, before) in found.items()})
                found |= self._single(device, stack)
                for form in set(found) - set(self.kept(device)):
                    found.pop(form)[0].close()
            sessions |= {str(form): found[form] for form in self.kept(device)}
        return sessions

    def _single(self, device: Device, stack: contextlib.ExitStack) -> dict[Form, WarmSession]:
        """The best form on one thread, where queries are so short that threads may cost more than they bring."""
        best = self.best(device)
        several = self._bench.threads is None and available_threads() > 1 and device == "cpu"
        if not several or self.tried[device][best] > _SHORT_MS:
            return {}
        found = self._opened([dataclasses.replace(best, single=True)], stack)
        self.tried[device].update({form: median(before.last_ms) for form, (_, before) in found.items()})
        return found

    def _opened(self, forms: Sequence[Form], stack: contextlib.ExitStack) -> dict[Form, WarmSession]:
        factory, bench = self._factory, self._bench
        assert factory is not None  # else there is no device
        threads = bench.threads or available_threads()
        workers = {f: stack.enter_context(Worker(f"measuring PyTorch ({f})", threads=threads)) for f in forms}

        def create(form: Form) -> None:
            workers[form].create(Probe, functools.partial(TorchSession, factory, form, threads), self._images)

        # Starting PyTorch takes longest: all of its processes load at once. A process is started by this thread, since
        # it dies with the thread that started it.
        with ThreadPoolExecutor(len(workers)) as pool:
            pending = {form: pool.submit(create, form) for form in forms}
        found = {}
        for form, worker in workers.items():
            try:
                pending[form].result()
                found[form] = worker, warmed_up(worker, bench.batch, bench.block_s)
            except DnexportError as exc:  # torch.compile needs a C++ compiler, bf16 a kernel for each layer
                if form in self.kept(form.device) or form == Form(device=form.device):
                    raise
                self.failed[form] = str(exc)
        return found


def _devices(engines: Sequence[Engine]) -> list[Device]:
    """Where PyTorch can stand beside these engines."""
    devices: list[Device] = ["cpu"] if any(engine.target.device == "cpu" for engine in engines) else []
    if any(engine.target.device == "cuda" for engine in engines):
        with Worker("looking for a GPU with PyTorch") as worker:
            devices += ["cuda"] if worker.call(cuda_usable) else []
    return devices
