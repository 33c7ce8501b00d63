"""From flags to recipe values: what was said, nothing else."""

import re
from pathlib import Path
from typing import Any

from dnexport.cli.options import ChannelOrder, InterpolationName, ObserverChoice, PlacementChoice
from dnexport.errors import UsageError
from dnexport.spec.recipe import Recipe, recipe_from_toml, recipe_from_values, with_absolute_paths


def precision_from_flags(fp32: bool, fp16: bool, int8: bool) -> str | None:
    """The precision that was asked for, None where none was.

    Raises:
        UsageError: two were.
    """
    if int8 and fp16:
        raise UsageError("--int8 already runs the rest in FP16", "drop --fp16")
    if fp32 and (fp16 or int8):
        raise UsageError("--fp32 contradicts --fp16 and --int8", "name one of them")
    return "fp32" if fp32 else "fp16" if fp16 else "int8" if int8 else None


def network_from_flags(
    arch: str | None, model: str | None, onnx: str | None, weights: str | None, classes: int | None, new_head: bool
) -> dict[str, Any]:
    """The keys that say what network is meant."""
    return {
        "arch": arch,
        "model": model,
        "onnx": onnx,
        "weights": weights,
        "classes": classes,
        "new_head": new_head or None,
    }


def calibration_from_flags(data: str | None, images: int | None, observer: ObserverChoice | None) -> dict[str, Any]:
    """The keys of the calibration set that were said."""
    return said({"data": data, "count": images, "observer": observer.value if observer else None})


def quantization_from_flags(
    placement: PlacementChoice | None, min_snr: float | None, max_drop: float | None, plan: str | None
) -> dict[str, Any]:
    """The keys of the quantization that were said."""
    chosen = placement.value if placement else None
    return said({"placement": chosen, "min_snr": min_snr, "max_drop": max_drop, "plan": plan})


def preprocess_from_flags(
    input_size: int | None,
    resize: int | None,
    crop: bool | None,
    interpolation: InterpolationName | None,
    channels: ChannelOrder | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """The preprocessing keys that were said.

    Raises:
        UsageError: mean or std are not numbers.
    """
    return said(
        {
            "input_size": [input_size, input_size] if input_size is not None else None,
            "resize": resize,
            "crop": crop,
            "interpolation": interpolation.value if interpolation else None,
            "channels": channels.value if channels else None,
            "mean": _numbers("--mean", mean),
            "std": _numbers("--std", std),
        }
    )


def recipe_from_flags(file: Path | None, flags: dict[str, Any], *, suffix: str) -> Recipe:
    """A recipe file with flags on top, or flags alone; the name follows arch or weights, then ``suffix``.

    Raises:
        RecipeError: the result is not a recipe.
    """
    values = recipe_from_toml(file) if file else {}
    for key, value in said(flags).items():
        known = values.get(key, {})
        if not isinstance(value, dict):
            values[key] = value
        elif isinstance(known, dict):  # anything else is left for the validation to refuse
            values[key] = {**known, **value}
    if "name" not in values:
        weights = values.get("weights", "auto")
        graph = Path(values["onnx"]).stem if values.get("onnx") else None
        stem = (
            values.get("arch")
            or values.get("model")
            or graph
            or (Path(weights).stem if ":" not in weights else "densenet")
        )
        ending = values.get("precision", "fp16") if suffix == "precision" else suffix
        values["name"] = f"{re.sub('[^A-Za-z0-9._-]+', '-', stem).strip('-._') or 'model'}-{ending}"
    # What is stored may be read from another folder.
    return recipe_from_values(with_absolute_paths(values, Path.cwd()), str(file) if file else "flags")


def said(values: dict[str, Any]) -> dict[str, Any]:
    """Without what was not said."""
    return {key: value for key, value in values.items() if value is not None and value not in ({}, ())}


def _numbers(flag: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise UsageError(f"{flag} '{text}' is not a list of numbers", f"write {flag} 0.5,0.5,0.5") from exc
