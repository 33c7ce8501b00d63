"""``dnexport calibrate``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli import options as o


def calibrate(
    recipe: o.RecipeFile = None,
    arch: o.Arch = None,
    model: o.Model = None,
    onnx: o.Onnx = None,
    weights: o.Weights = None,
    classes: o.Classes = None,
    new_head: o.NewHead = False,
    data: o.Data = None,
    calibration_data: o.CalibrationData = None,
    calibration_images: o.CalibrationImages = None,
    observer: o.Observer = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The table.", show_default="calibration/tables/NAME.json")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Observe the ranges of a network's activations and write them as a calibration table."""
    from dnexport.cli import flags
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        calibration = flags.calibration_from_flags(calibration_data, calibration_images, observer)
        values = {
            **flags.network_from_flags(arch, model, onnx, weights, classes, new_head),
            "data": data,
            "calibration": calibration,
            "precision": "int8",
        }
        resolved = flags.recipe_from_flags(recipe, values, suffix="calibration")
        from dnexport.build.host_stages import cache_folder
        from dnexport.build.pipeline import calibration_table
        from dnexport.bundle.pack import check_overwritable
        from dnexport.calibrate.table import table_from_path
        from dnexport.spec.record import write_atomically

        destination = output or Path("calibration/tables") / f"{resolved.name}.json"
        check_overwritable(destination, table_from_path, "calibration table")
        made = calibration_table(resolved, cache_folder(Path("engines/built") / resolved.name), view)
        write_atomically(destination, made.read_bytes())
        table = table_from_path(made)
        settled = table.settled()
        view.document({"table": str(destination.resolve()), "images": len(table.image_digests), "settled": settled})
        view.say(
            f"{len(table.image_digests)} images, {len(table.ranges)} tensors; "
            + (
                f"after {settled} images no scale moved by 1 % any more"
                if settled
                else "the scales still moved by 1 % with the last images: give more"
            )
        )
        for doubt in table.doubts():
            view.warn(doubt)
        view.say(f"table  {destination.resolve()}")
