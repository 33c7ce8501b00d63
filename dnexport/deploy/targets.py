"""Which targets a build makes, and what each may execute: asked for is built or refused, never quietly replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dnexport.errors import TargetUnavailable, UsageError
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.tensorrt import DEFAULT_RTX_CAPABILITIES
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.recipe import Recipe
from dnexport.spec.target import Target

LOCAL = (Target.parse("openvino:cpu"), Target.parse("onnxruntime:cpu"))
_RTX = Target(runtime="tensorrt-rtx", device="cuda", capabilities=DEFAULT_RTX_CAPABILITIES)
_PREPARED_ELSEWHERE = ("tensorrt", "onnxruntime")


@dataclass(frozen=True)
class Chosen:
    """One target of a build.

    Attributes:
        target: what runs it.
        action: ``build`` it here, ``prepare`` its lowered graph for a device that builds it, or ``refuse`` it.
        companion: added by ``auto`` to validate the graph here.
        reason: why it is only prepared.
        refused: why it is refused.
    """

    target: Target
    action: Literal["build", "prepare", "refuse"]
    companion: bool = False
    reason: str = ""
    refused: TargetUnavailable | None = None


def chosen_targets(recipe: Recipe) -> tuple[Chosen, ...]:
    """Resolve a recipe's targets on this machine; one that can neither be built nor prepared leaves the others alone.

    Raises:
        TargetUnavailable: none of the named targets can be built or prepared, or nothing is here for ``auto``.
        UsageError: a CPU target is named for fp16 without saying what it may execute.
    """
    chosen: dict[Target, Chosen] = {}
    for text in recipe.targets:
        for each in _auto(recipe.precision) if text == "auto" else (_named(Target.parse(text), recipe),):
            chosen.setdefault(each.target, each)
    refused = [each.refused for each in chosen.values() if each.refused is not None]
    if len(refused) == len(chosen):
        raise refused[0]
    return tuple(chosen.values())


def _auto(precision: Precision) -> list[Chosen]:
    """A fixed order, not a race: TensorRT where a GPU is, else an RTX plan ahead of time; and the best local companion.

    TensorRT for RTX documents INT8 for matrix products only, so for int8 it is not chosen.
    """
    chosen = []
    tensorrt = Target.parse("tensorrt")
    if runtime_for(tensorrt).builds(tensorrt).usable:
        chosen.append(Chosen(tensorrt, "build"))
    elif precision is not Precision.INT8 and runtime_for(_RTX).builds(_RTX).usable:
        chosen.append(Chosen(_RTX, "build"))
    local = next((target for target in LOCAL if runtime_for(target).runs(target).usable), None)
    if local is not None:
        chosen.append(Chosen(local, "build", companion=True))
    if not chosen:
        raise TargetUnavailable(
            "no runtime is installed", "pip install 'dnexport[cpu]'; 'dnexport doctor' shows them all"
        )
    return chosen


def _named(target: Target, recipe: Recipe) -> Chosen:
    runtime = runtime_for(target)
    availability = runtime.builds(target)
    if not availability.usable:
        if target.device == "cuda" and target.runtime in _PREPARED_ELSEWHERE:
            return Chosen(target, "prepare", reason=availability.reason)
        what = f"target {target} cannot work here: {availability.reason}"
        return Chosen(target, "refuse", refused=TargetUnavailable(what, availability.remedy))
    if recipe.precision is Precision.FP16 and target.device == "cpu":
        _check_stand_in(
            target, runtime.execution(Precision.FP16, target, recipe.allow_execution), recipe.allow_execution
        )
    if target.runtime == "tensorrt-rtx" and recipe.precision is Precision.FP32 and "sm75" in target.capabilities:
        what = "TensorRT for RTX builds no FP32 convolutions for sm75 (Turing)"
        return Chosen(target, "refuse", refused=TargetUnavailable(what, "drop sm75 or build --fp16"))
    return Chosen(target, "build")


def _check_stand_in(target: Target, execution: Execution, allowed: Sequence[str]) -> None:
    if not allowed:
        raise UsageError(
            f"target {target} would execute fp16 as {execution}", f"say --allow-execution {execution} if that is meant"
        )
    if execution.value not in allowed:
        raise UsageError(
            f"target {target} executes {execution} on this machine, and {' and '.join(allowed)} was allowed",
            f"say --allow-execution {execution}",
        )
