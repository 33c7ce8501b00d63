"""``dnexport report``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli.options import Debug, Json


def report(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles of one network, in the order of the columns.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page; .json for programs, .md for a pull request.")
    ] = Path("report.html"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Report on one or several bundles side by side: PyTorch | FP16 | INT8."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.bundle.pack import check_outside_bundles
        from dnexport.bundle.verify import Bundle
        from dnexport.report.document import write_report

        check_outside_bundles(output)
        write_report([Bundle.open(path) for path in bundles], [str(path) for path in bundles], output)
        view.document({"report": str(output.resolve())})
        view.say(f"report  {output.resolve()}")
