"""``dnexport export``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli import options as o


def export(
    arch: o.Arch = None,
    model: o.Model = None,
    onnx: o.Onnx = None,
    weights: o.Weights = None,
    classes: o.Classes = None,
    new_head: o.NewHead = False,
    input_size: o.InputSize = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file.")] = Path("model.onnx"),
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Export to the canonical FP32 ONNX graph, checked against what it was made from."""
    from dnexport.cli import flags
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        preprocess = flags.preprocess_from_flags(input_size, None, None, None, None, None, None)
        recipe = flags.recipe_from_flags(
            None,
            {**flags.network_from_flags(arch, model, onnx, weights, classes, new_head), "preprocess": preprocess},
            suffix="export",
        )
        from dnexport.build.host_stages import cache_folder
        from dnexport.build.pipeline import canonical_graph
        from dnexport.bundle.pack import check_overwritable
        from dnexport.graph.contract import model_from_path
        from dnexport.spec.record import write_atomically

        check_overwritable(output, model_from_path, "graph")
        graph = canonical_graph(recipe, cache_folder(Path("engines/built") / recipe.name), view)
        write_atomically(output, graph.read_bytes())
        view.document({"graph": str(output.resolve()), "bytes": output.stat().st_size})
        view.say(f"graph  {output.resolve()}  {output.stat().st_size / 1e6:.1f} MB")
