"""``dnexport build``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli import options as o


def build(
    recipe: o.RecipeFile = None,
    arch: o.Arch = None,
    model: o.Model = None,
    onnx: o.Onnx = None,
    weights: o.Weights = None,
    classes: o.Classes = None,
    new_head: o.NewHead = False,
    class_names: o.ClassNames = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Build FP32 engines.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Build FP16 engines (the default).")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Build INT8 engines; the rest runs in FP16 where the device can.")
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(help="auto, or tensorrt-rtx:sm86+sm89, openvino:cpu, …; may be repeated.", show_default="auto"),
    ] = None,
    allow_execution: Annotated[
        list[o.AllowedExecution] | None,
        typer.Option(help="What a CPU target may execute instead; may be repeated.", show_default=False),
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes min..opt..max.", show_default="1..1..8")] = None,
    input_type: Annotated[
        o.InputChoice | None,
        typer.Option("--input", help="What engines take: normalised images or pixels.", show_default="float32"),
    ] = None,
    data: o.Data = None,
    calibration_data: o.CalibrationData = None,
    calibration_images: o.CalibrationImages = None,
    observer: o.Observer = None,
    calibration_table: Annotated[
        str | None, typer.Option(help="A table that 'dnexport calibrate' made.", show_default=False)
    ] = None,
    placement: Annotated[
        o.PlacementChoice | None, typer.Option(help="What INT8 holds in int8 codes.", show_default="activation")
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(help="Least SNR of INT8 logits, dB: the worst layers go back to float.", show_default=False),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, help="Greatest loss of top-1 by INT8, points; likewise.", show_default=False)
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help="A plan.json that says which layers stay in float.", show_default=False)
    ] = None,
    input_size: o.InputSize = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    channels: o.Channels = None,
    mean: o.Mean = None,
    std: o.Std = None,
    require: o.Require = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The bundle's directory.", show_default="engines/built/NAME")
    ] = None,
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Do not measure latency.")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Build engines from a checkpoint or an architecture, prove and measure them, and leave a bundle."""
    from dnexport.build.document import NOTHING
    from dnexport.cli import flags
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug, nothing=NOTHING) as view:
        values = {
            **flags.network_from_flags(arch, model, onnx, weights, classes, new_head),
            "class_names": class_names,
            "data": data,
            "batch": batch,
            "input": input_type.value if input_type else None,
            "precision": flags.precision_from_flags(fp32, fp16, int8),
            "targets": target,
            "allow_execution": [each.value for each in allow_execution or ()] or None,
            "calibration_table": calibration_table,
            "calibration": flags.calibration_from_flags(calibration_data, calibration_images, observer),
            "quantization": flags.quantization_from_flags(placement, min_snr, max_drop, plan),
            "require": require,
            "preprocess": flags.preprocess_from_flags(input_size, resize, crop, interpolation, channels, mean, std),
        }
        resolved = flags.recipe_from_flags(recipe, values, suffix="precision")
        from dnexport.build.pipeline import build as run_build
        from dnexport.cli.render import show_build
        from dnexport.measure.budgets import exit_code

        built = run_build(resolved, output or Path("engines/built") / resolved.name, view, bench=not no_bench)
        show_build(view, built.bundle, built.failures)
        raise typer.Exit(built.failures[0].exit_code if built.failures else exit_code(built.bundle.judgements))
