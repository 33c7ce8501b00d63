"""``dnexport report``"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli.options import Debug, Json


def report(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            help="Bundles of one network, or a report.json of them, in the order of the columns.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page; .json for programs, .md for a pull request.")
    ] = Path("report.html"),
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier report.json: what got worse beyond noise?", show_default=False)
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Report on one or several bundles side by side: PyTorch | FP16 | INT8."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.bundle.pack import check_outside_bundles
        from dnexport.cli.render import report_document, show_comparison
        from dnexport.deploy.reports import reports_from_path
        from dnexport.report.document import check_output, write_report
        from dnexport.spec.report import report_from_bundles

        check_outside_bundles(output)
        check_output(output)
        found = [each for path in bundles for each in reports_from_path(path)]
        command = shlex.join(["dnexport", "report", *map(str, bundles)])
        made = report_from_bundles(found, command)
        if baseline is not None:
            from dnexport.report.compare import compare

            comparison = compare(found, reports_from_path(baseline), str(baseline))
            made = made.model_copy(
                update={"command": f"{command} {shlex.join(['--baseline', str(baseline)])}", "comparison": comparison}
            )
        write_report(made, output)
        view.document(report_document(made, output))
        if made.comparison is not None:
            show_comparison(view, made.comparison)
        view.say(f"report  {output.resolve()}")
        raise typer.Exit(made.comparison.exit_code if made.comparison else 0)
