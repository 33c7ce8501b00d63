"""Which targets a build makes, and what each may execute: asked for is built or refused, never quietly replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dnexport.errors import TargetUnavailable, UsageError
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.tensorrt import DEFAULT_RTX_CAPABILITIES
from dnexport.spec.precision import SATURATION, Execution, Precision, asked_execution
from dnexport.spec.recipe import Recipe
from dnexport.spec.target import Target

LOCAL = (Target.parse("openvino:cpu"), Target.parse("onnxruntime:cpu"))
_RTX = Target(runtime="tensorrt-rtx", device="cuda", capabilities=DEFAULT_RTX_CAPABILITIES)


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
        UsageError: a CPU target is named for a precision that it executes in another way, which was not allowed.
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
    """What becomes of a target that was asked for by name.

    A lowering needs no runtime: what cannot be built here is prepared.
    """
    if target.runtime == "torch":
        availability = runtime_for(target).builds(target)
        return _refuse(target, f"target {target} cannot work here: {availability.reason}", availability.remedy)
    if recipe.precision is Precision.FP32:
        if target.runtime == "tensorrt-rtx" and "sm75" in target.capabilities:
            what = "TensorRT for RTX builds no FP32 convolutions for sm75 (Turing)"
            return _refuse(target, what, "drop sm75 or build --fp16")
        if target.device == "npu":
            return _refuse(target, f"target {target} computes no FP32: NPUs compute in float16", "build --fp16")
    availability = runtime_for(target).builds(target)
    if not availability.usable:
        reason = "; ".join(filter(None, (availability.reason, availability.remedy, _foreseen(target, recipe))))
        return Chosen(target, "prepare", reason=reason)
    if (refusal := stand_in_refusal(target, recipe.precision, recipe.allow_execution)) is not None:
        raise refusal
    return Chosen(target, "build")


def _foreseen(target: Target, recipe: Recipe) -> str:
    """What the device may refuse to execute, as far as that is known here."""
    if target.device != "cpu" or recipe.precision is Precision.FP32 or recipe.allow_execution:
        return ""
    words = "bf16 or f32" if recipe.precision is Precision.FP16 else "f32 or int8-saturating"
    return f"a processor that executes {recipe.precision} in another way is refused without --allow-execution {words}"


def _refuse(target: Target, what: str, remedy: str) -> Chosen:
    return Chosen(target, "refuse", refused=TargetUnavailable(what, remedy))


def stand_in_refusal(target: Target, precision: Precision, allowed: Sequence[str]) -> UsageError | None:
    """Why a target that was named may not be built here: it would execute something else, which was not allowed.

    It is known before anything is calibrated or compiled.
    """
    execution = runtime_for(target).execution(precision, target, allowed)
    if execution is asked_execution(precision, target.device) or execution.stand_in in allowed:
        return None
    word = execution.stand_in
    why = f", since {SATURATION}" if execution is Execution.INT8_SATURATING_F32 else ""
    if not allowed:
        what = f"target {target} would execute {precision} as {execution}{why}"
        return UsageError(what, f"say --allow-execution {word} if that is meant")
    return UsageError(
        f"target {target} executes {precision} as {execution} on this machine{why}, and {' and '.join(allowed)} was"
        " allowed",
        f"say --allow-execution {word}",
    )
