"""Plots: for the report SVG text that takes its colours from the page, legible in light and dark; else PNG."""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from dnexport.spec.latency import BatchPoint
from dnexport.spec.training import EpochRow

# Stand-ins that are replaced by the page's CSS variables in the SVG.
_INK, _FAINT = "#010203", "#040506"
_COLOURS = {"reference": "#070809", "fp32": "#0a0b0c", "fp16": "#0d0e0f", "int8": "#101112"}
_DOTS = 300
_LABEL_CHARACTERS = 34
_MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Distribution:
    """The raw latencies of one session.

    Attributes:
        label: beside its row.
        kind: ``reference``, ``fp32``, ``fp16`` or ``int8``: its colour.
        samples_ms: every query.
    """

    label: str
    kind: str
    samples_ms: Sequence[float]


@dataclass(frozen=True)
class Sweep:
    """Throughput over batch sizes.

    Attributes:
        label: in the legend.
        kind: as of `Distribution`.
        points: of the engine.
        beside: PyTorch's best form in the legend; empty where it is not drawn.
    """

    label: str
    kind: str
    points: Sequence[BatchPoint]
    beside: str = ""


def sweep_plot(sweeps: Sequence[Sweep]) -> str:
    """Images a second over the batch size, the best point of each engine marked, PyTorch's best form dashed."""
    with matplotlib.rc_context(_settings("sweep")):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for index, sweep in enumerate(sweeps):
            colour, marker = _COLOURS[sweep.kind], _MARKERS[index % len(_MARKERS)]
            points = sorted(sweep.points, key=lambda point: point.batch)
            batches, rates = [each.batch for each in points], [each.images_per_second for each in points]
            axes.plot(batches, rates, color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=sweep.label)
            for point in points:
                if point.low is not None and point.high is not None:
                    axes.plot([point.batch] * 2, [point.low, point.high], color=colour, linewidth=1, alpha=0.6)
            best = max(points, key=lambda point: point.images_per_second)
            axes.scatter([best.batch], [best.images_per_second], s=120, facecolors="none", edgecolors=colour, zorder=3)
            text = f"{best.images_per_second:,.0f} at {best.batch}"
            at = (best.batch, best.images_per_second)
            axes.annotate(text, at, (0, 9), textcoords="offset points", ha="center", va="bottom", color=_INK)
            known = [(each.batch, each.reference) for each in points if each.reference is not None]
            if known and sweep.beside:
                drawn = axes.plot(*zip(*known, strict=True), marker=marker, markersize=3.5, label=sweep.beside)
                drawn[0].set(color=_COLOURS["reference"], linestyle="--", linewidth=1.3)
        sizes = sorted({point.batch for sweep in sweeps for point in sweep.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.08)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
        axes.set_xlabel("images a query")
        axes.set_ylabel("images a second")
        axes.yaxis.label.set_color(_INK)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        _quiet(axes, "y")
        figure.legend(frameon=False, loc="outside lower left", ncols=2, fontsize=10)
        return _themed(figure, "Throughput by batch size")


def latency_plot(rows: Sequence[Distribution]) -> str:
    """Every query as a dot, the median as a bar, on a logarithmic axis of milliseconds."""
    with matplotlib.rc_context(_settings("latency")):
        figure = Figure(figsize=(8.6, 0.62 * len(rows) + 0.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        generator = np.random.default_rng(0)
        for height, row in enumerate(reversed(rows)):
            colour = _COLOURS[row.kind]
            samples = np.asarray(row.samples_ms)
            shown = np.sort(samples)
            if len(shown) > _DOTS:  # the fastest and the slowest, and a draw of those between
                shown = np.concatenate([shown[[0, -1]], generator.choice(shown[1:-1], _DOTS - 2, replace=False)])
            axes.scatter(
                shown, height + generator.uniform(-0.22, 0.22, len(shown)), s=9, alpha=0.35, color=colour, linewidths=0
            )
            middle = float(np.median(samples))
            axes.plot(
                [middle, middle], [height - 0.34, height + 0.34], color=colour, linewidth=2.6, solid_capstyle="butt"
            )
            axes.annotate(f"{middle:.2f}", (middle, height + 0.36), ha="center", va="bottom", color=_INK, fontsize=9.5)
        axes.set_xscale("log")
        labels = [textwrap.fill(row.label, _LABEL_CHARACTERS) for row in reversed(rows)]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(-0.6, len(rows) - 0.25)
        axes.set_xlabel(
            f"milliseconds a query (bar and number the median; at most {_DOTS} dots, the extremes among them)"
        )
        _plain_axis(axes, rows)
        return _themed(figure, "Latency of every query")


def training_curves(history: Sequence[EpochRow]) -> bytes:
    """Loss, accuracy and learning rate over the epochs, as a PNG."""
    epochs = [row.epoch for row in history]
    tested = [(row.epoch, 100 * row.test_top1) for row in history if row.test_top1 is not None]
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(8.6, 6.4), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        loss, top1, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.2))
        loss.plot(epochs, [row.loss for row in history], color="#2b6cb0")
        loss.set_ylabel("training loss")
        top1.plot(epochs, [100 * row.train_top1 for row in history], color="#2b6cb0", label="training, augmented")
        top1.plot(
            [epoch for epoch, _ in tested],
            [share for _, share in tested],
            color="#c05621",
            marker="o",
            markersize=3.5,
            label="held out",
        )
        top1.set_ylabel("top-1 in %")
        top1.legend(frameon=False, loc="lower right")
        rate.plot(epochs, [row.learning_rate for row in history], color="#4a5568")
        rate.set_ylabel("learning rate")
        rate.set_xlabel("epoch")
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (loss, top1, rate):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _plain_axis(axes: "matplotlib.axes.Axes", rows: Sequence[Distribution]) -> None:
    low = min(min(row.samples_ms) for row in rows)
    high = max(max(row.samples_ms) for row in rows)
    ticks = [m * 10.0**e for e in range(-2, 5) for m in (1, 2, 5) if low * 0.7 <= m * 10.0**e <= high * 1.4]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    _quiet(axes, "x")


def _quiet(axes: "matplotlib.axes.Axes", direction: Literal["x", "y"]) -> None:
    """Lines across ``direction`` and nothing else."""
    axes.tick_params(colors=_INK, length=0)
    axes.xaxis.label.set_color(_INK)
    axes.grid(axis=direction, color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _settings(salt: str) -> Any:
    """Text stays text, and the same plot has the same names inside, other than those of another in the page."""
    return {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 11}


def _themed(figure: Figure, label: str) -> str:
    """The drawing without its XML preamble, with CSS variables for colours and a size that scales."""
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])  # nothing refers to groups
    variables = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {
        colour: f"var(--{kind})" for kind, colour in _COLOURS.items()
    }
    for colour, variable in variables.items():
        svg = svg.replace(colour, variable)
    head, _, body = svg.partition(">")
    head = re.sub(r'\b(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">{body}'
