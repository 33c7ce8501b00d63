"""Latency side by side: ``python benchmarks/latency.py CIFAR10 IMAGES ENVIRONMENTS --plot FILE`` prints Markdown.

CIFAR10 is a folder with ``train/`` and ``test/`` of class folders, IMAGES one of photographs, ENVIRONMENTS one in which
NNCF's virtual environment is made, where it is not there yet. ``--network`` and ``--batch`` take some of them,
``--sets`` another number of sets of processes; ``--row TEXT`` takes the rows whose names contain it, and ``--over
NAME`` says of which row the ratios are, where it is not eager PyTorch and PyTorch's best form.

PyTorch in its forms; ONNX Runtime and OpenVINO on the graph as PyTorch exports it; NNCF's INT8 on OpenVINO; dnexport's
FP32, FP16 and INT8 engines on each runtime that runs here; INT8 also with bfloat16 around it. Each session is a process
of its own; all of them answer in alternating blocks, and all of it is done several times with new processes. A ratio is
over eager PyTorch (or what ``--over`` names) in the same rounds, with its 95 % interval over the sets of processes; the
best form of PyTorch is marked. TensorRT's and CUDA's rows appear where there is a GPU.
"""

import argparse
import contextlib
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from quantization import CHECKPOINT, OPENVINO, OWN, Case, cifar_case, interpreter, photographs_case, quantized

from dnexport.build.network import reference_factory
from dnexport.build.pipeline import build
from dnexport.bundle.verify import Bundle
from dnexport.deploy.engine import Engine, engine_from_bundle
from dnexport.measure.conditions import Watch
from dnexport.measure.latency import Blocks, Probe, alternate, latency_from_blocks, ratio_from_blocks, warmed_up
from dnexport.runtimes.arrays import available_threads, whole_batches
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.torch_eager import Device, Form, TorchSession, cuda_usable, forms_on
from dnexport.spec.latency import Latency
from dnexport.spec.precision import Precision
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import recipe_from_values
from dnexport.spec.target import Target

BATCHES = (1, 8, 32)
SETS, ROUNDS, BLOCK_S = 5, 2, 0.2
CANDIDATES = ("onnxruntime:cpu", "openvino:cpu", "onnxruntime:cuda", "tensorrt", "tensorrt-rtx")
# By name: the precision, and where int8 is held.
OURS = {
    "fp32": (Precision.FP32, ""),
    "fp16": (Precision.FP16, ""),
    "int8": (Precision.INT8, "activation"),
    "int8 state": (Precision.INT8, "state"),
}
COLOURS = {"PyTorch": "#7b8490", "plain export": "#3b7d4f", "NNCF": "#8a5cc2", "dnexport": "#2563c9"}


@dataclass(frozen=True)
class Entrant:
    """Something that answers queries.

    Attributes:
        group: whose it is: a key of `COLOURS`.
        name: of it.
        executed: its arithmetic.
        opened: a worker with its `Probe`.
    """

    group: str
    name: str
    executed: str
    opened: Callable[[np.ndarray], contextlib.AbstractContextManager[Worker]]

    def __str__(self) -> str:
        return f"{self.group}, {self.name}"


@dataclass(frozen=True)
class Row:
    """What was measured of an entrant."""

    entrant: Entrant
    latency: Latency
    sets: Sequence[Blocks]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("cifar", "images", "environments"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--network", action="append", choices=["densenet-bc-40-12", "densenet121"])
    parser.add_argument("--batch", action="append", type=int, choices=BATCHES)
    parser.add_argument("--sets", type=int, default=SETS)
    parser.add_argument("--row", action="append", default=[])
    parser.add_argument("--over", action="append", default=[])
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.plot and (arguments.row or arguments.over):
        parser.error("--plot is of all rows over eager PyTorch: leave --row and --over out")
    cifar, images = arguments.cifar.resolve(), arguments.images.resolve()
    python = interpreter("nncf", arguments.environments.resolve())
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.network or ["densenet-bc-40-12", "densenet121"]:
            place = Path(folder) / network
            case = cifar_case(place, cifar) if network == "densenet-bc-40-12" else photographs_case(place, images)
            weights = str(CHECKPOINT) if network == "densenet-bc-40-12" else "random"
            source = cifar if network == "densenet-bc-40-12" else images
            entrants = entrants_of(case, network, weights, source, python, compiled=not arguments.no_compile)
            entrants = [each for each in entrants if any(text in str(each) for text in arguments.row or [""])]
            if not entrants:
                parser.error(f"no row is called {' or '.join(arguments.row)}")
            if absent := set(arguments.over) - set(map(str, entrants)):
                parser.error(f"--over {absent.pop()}: the rows are {'; '.join(map(str, entrants))}")
            for batch in arguments.batch or BATCHES:
                watch = Watch()
                queries = whole_batches(case.test[: max(16, batch)], batch)
                rows = measured(entrants, queries, batch, arguments.sets, watch)
                print(f"\n### {network}, batch {batch}\n\n{table(rows, arguments.over, watch)}", flush=True)
                figures[f"{network}, batch {batch}"] = rows
    if arguments.plot:
        plot(figures, arguments.plot)


def entrants_of(case: Case, network: str, weights: str, source: Path, python: str, *, compiled: bool) -> list[Entrant]:
    """All that answer, eager PyTorch first."""
    bundles = {name: bundle_of(case, network, weights, source, name) for name in OURS}
    factory = reference_factory(bundles["fp32"].manifest)
    assert factory is not None
    with Worker("looking for a GPU with PyTorch") as worker:
        devices: list[Device] = ["cpu", *(["cuda"] if worker.call(cuda_usable) else [])]
    forms = [form for device in devices for form in forms_on(device, single=device == "cpu")]
    if compiled:  # in the half type, the faster one; each compiles for minutes
        forms += [dataclasses.replace(form, compiled=True) for form in forms if form.dtype != "fp32"]
    entrants = [Entrant("PyTorch", str(form), str(form.execution), opened_form(factory, form)) for form in forms]
    for target in (OWN, OPENVINO):
        engine = Engine(target, case.exported, Precision.FP32)
        entrants.append(Entrant("plain export", target.runtime, "f32", functools.partial(opened, engine)))
    theirs = case.folder / "nncf.onnx"
    np.save(case.folder / "calibration.npy", case.calibration)
    run = quantized("NNCF (default)", python, case, theirs)
    if theirs.exists():
        entrants += entrants_of_engine("NNCF", "int8, openvino", Engine(OPENVINO, theirs, Precision.INT8))
    else:
        print(f"NNCF failed: {run.errors.strip().splitlines()[-1:]}", file=sys.stderr)
    for ours, bundle in bundles.items():
        for name, report in bundle.reports.items():
            if report.status == "validated":
                engine = engine_from_bundle(bundle, Target.parse(name))
                label = f"{ours}, {Target.parse(name).runtime}"
                entrants += entrants_of_engine("dnexport", label, engine, str(report.executed_precision))
    return entrants


def entrants_of_engine(group: str, name: str, engine: Engine, executed: str = "") -> list[Entrant]:
    """An engine as it is; and INT8's with bfloat16 around int8, where the runtime and the processor have it."""
    execution = functools.partial(runtime_for(engine.target).execution, engine.precision, engine.target)
    entrants = [Entrant(group, name, executed or str(execution()), functools.partial(opened, engine))]
    if execution(("bf16",)) is not execution():
        mixed = dataclasses.replace(engine, allowed=("bf16",))
        entrants.append(
            Entrant(group, f"{name}, bf16", str(execution(mixed.allowed)), functools.partial(opened, mixed))
        )
    return entrants


def bundle_of(case: Case, network: str, weights: str, source: Path, name: str) -> Bundle:
    """A bundle with an engine for each runtime that runs here."""
    precision, placement = OURS[name]
    targets = [each for each in CANDIDATES if runtime_for(Target.parse(each)).runs(Target.parse(each)).usable]
    if placement == "state":  # ONNX Runtime's CPU provider simulates int8 in float, whatever the placement
        targets.remove(str(OWN))
    values = {
        "name": name.replace(" ", "-"),
        "weights": weights,
        "precision": precision.value,
        "targets": targets,
        "allow_execution": {"fp32": [], "fp16": ["bf16", "f32"], "int8": ["f32", "int8-saturating"]}[precision.value],
        "batch": f"1..1..{max(BATCHES)}",
        **({"arch": network} if weights == "random" else {}),
    }
    if precision is Precision.INT8:
        values["quantization"] = {"placement": placement}
        values["calibration"] = {"data": str(source), "count": len(case.calibration)}
    return build(recipe_from_values(values, "benchmark"), case.folder / name, Silent(), bench=False).bundle


@contextlib.contextmanager
def opened(engine: Engine, images: np.ndarray):  # type: ignore[no-untyped-def]
    with engine.probe("measuring", images, parked=True) as worker:
        yield worker


def opened_form(factory: Callable[[], object], form: Form):  # type: ignore[no-untyped-def]
    @contextlib.contextmanager
    def opened(images: np.ndarray):  # type: ignore[no-untyped-def]
        with Worker(f"measuring PyTorch ({form})", parked=True) as worker:
            worker.create(Probe, functools.partial(TorchSession, factory, form), images)
            yield worker

    return opened


def measured(
    entrants: Sequence[Entrant], images: np.ndarray, batch: int, sets_of_processes: int, watch: Watch
) -> list[Row]:
    sets: list[list[Blocks]] = [[] for _ in entrants]
    for start in range(sets_of_processes):
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(entrant.opened(images)) for entrant in entrants]
            warm = [warmed_up(worker, batch, BLOCK_S) for worker in workers]
            with watch.span([worker.process for worker in workers]):
                blocks = alternate(
                    workers,
                    warm,
                    batch=batch,
                    block_s=BLOCK_S,
                    enough=lambda rounds, _: rounds >= ROUNDS,
                    backwards=start % 2 == 1,
                )
        for found, each in zip(sets, blocks, strict=True):
            found.append(each)
        watch.read()
    threads = available_threads()
    return [
        Row(
            entrant,
            latency_from_blocks(found, batch=batch, threads=threads),
            found,
        )
        for entrant, found in zip(entrants, sets, strict=True)
    ]


def table(rows: Sequence[Row], over: Sequence[str], watch: Watch) -> str:
    by_name = {str(row.entrant): row for row in rows}
    best = min((row for row in rows if row.entrant.group == "PyTorch"), key=lambda r: r.latency.p50_ms, default=None)
    bases = {f"over {name}": by_name[name] for name in over}
    if not over:
        bases = {f"over {rows[0].entrant}": rows[0]} | ({"over PyTorch's best form": best} if best else {})
    lines = [f"| | executed | p50, ms | images/s | {' | '.join(bases)} |", "|---" * (4 + len(bases)) + "|"]
    for name, row in by_name.items():
        ratios = ["1" if row is base else str(ratio_from_blocks(base.sets, row.sets)) for base in bases.values()]
        rate = row.latency.batch / row.latency.p50_ms * 1e3
        marked = f"{name} (best form)" if row is best and not over else name
        figures = [row.entrant.executed, f"{row.latency.p50_ms:.2f}", f"{rate:.0f}", *ratios]
        lines.append(f"| {marked} | {' | '.join(figures)} |")
    others = "not told" if watch.others_share is None else f"{watch.others_share:.1%}"
    return "\n".join([*lines, "", f"Other programs took {others} of the processors' time."])


def plot(figures: dict[str, list[Row]], file: Path) -> None:
    """Speed-up over eager PyTorch with its interval: a panel a network and batch size."""
    columns = max(1, len({title.rpartition(" ")[2] for title in figures}))
    lines = -(-len(figures) // columns)
    most = max(len(rows) for rows in figures.values())
    figure = Figure(figsize=(4.6 * columns + 1.8, (0.26 * most + 0.9) * lines), layout="constrained", dpi=110)
    grid = np.atleast_1d(figure.subplots(lines, columns, sharex=True, squeeze=False)).ravel()
    for index, (axes, (title, rows)) in enumerate(zip(grid, figures.items(), strict=False)):
        for height, row in enumerate(reversed(rows)):
            ratio, colour = ratio_from_blocks(rows[0].sets, row.sets), COLOURS[row.entrant.group]
            axes.plot([ratio.low or ratio.value, ratio.high or ratio.value], [height] * 2, color=colour, linewidth=2)
            axes.plot([ratio.value], [height], "o", color=colour, markersize=5)
        named = index % columns == 0
        axes.set_yticks(range(len(rows)), [str(row.entrant) if named else "" for row in reversed(rows)], fontsize=8.5)
        axes.set_xscale("log")
        axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        axes.minorticks_off()
        axes.axvline(1, color="#c9ced6", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eceff3")
        axes.set_axisbelow(True)
    for axes in grid[-columns:]:
        axes.set_xlabel("times as fast as eager PyTorch")
    figure.savefig(file, metadata={"Software": None})


if __name__ == "__main__":
    main()
