"""``dnexport inspect``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli.options import Debug, Json


def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="A checkpoint (.pt, .pth, .tar, .safetensors) or a graph (.onnx).", show_default=False),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what network a checkpoint is of and prove that every weight finds its place; or what in a graph will hurt."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.build.inspection import graph_inspection, inspection
        from dnexport.cli.render import show_graph_inspection, show_inspection

        is_graph = file.suffix.lower() == ".onnx"
        found = graph_inspection(file) if is_graph else inspection(file)
        view.document(found)
        if not as_json:
            (show_graph_inspection if is_graph else show_inspection)(view, found)
