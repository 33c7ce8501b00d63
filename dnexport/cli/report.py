"""``dnexport report``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli.options import Debug, Json


def report(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles of one network, in the order of the columns.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Render one page over one or several bundles: PyTorch | FP16 | INT8."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.bundle.verify import Bundle
        from dnexport.report.html import page_from_bundles
        from dnexport.spec.record import write_atomically

        page = page_from_bundles([Bundle.open(path) for path in bundles], [str(path) for path in bundles])
        write_atomically(output, page.encode())
        view.document({"report": str(output.resolve())})
        view.say(f"report  {output.resolve()}")
