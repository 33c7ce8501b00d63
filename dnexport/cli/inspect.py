"""``dnexport inspect``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli.options import Debug, Json


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pt, .pth, .tar or .safetensors.", show_default=False)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what network a checkpoint is of, and prove that every weight finds its place."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.build.inspection import inspection
        from dnexport.cli.render import show_inspection

        found = inspection(file)
        view.document(found)
        if not as_json:
            show_inspection(view, found)
