"""``dnexport bench``"""

from typing import Annotated, Any

import typer

from dnexport.cli import options as o

# What a bundle's recipe says of itself, where nothing else is said here.
_DEFAULT: dict[str, Any] = {"show_default": "the bundle's recipe"}


def bench(
    bundle: o.BundleFolder,
    target: o.TargetName = None,
    expect_digest: o.ExpectDigest = None,
    restarts: Annotated[
        int | None, typer.Option(min=1, help="Sets of processes, one after another.", **_DEFAULT)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Alternations between engine and PyTorch in each set.", **_DEFAULT)
    ] = None,
    block: Annotated[
        float | None, typer.Option(min=0.01, help="Least length of a block of queries, seconds.", **_DEFAULT)
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a query.", **_DEFAULT)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every session.", **_DEFAULT)] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Queries of each engine, at the least.", **_DEFAULT)
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of measuring, at the least.", **_DEFAULT)
    ] = None,
    scenario: Annotated[
        list[o.ScenarioName] | None,
        typer.Option(help="MLPerf's scenario to measure too; may be repeated.", **_DEFAULT),
    ] = None,
    cuda_graph: Annotated[
        bool | None,
        typer.Option("--cuda-graph/--no-cuda-graph", help="Launch a query as one CUDA graph, on a GPU.", **_DEFAULT),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Let torch.compile compete as a reference.", **_DEFAULT),
    ] = None,
    require: o.Require = None,
    output: o.MeasuredReport = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure latency again, beside PyTorch where it and the weights are here."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        from dnexport.build.network import reference_factory
        from dnexport.bundle.verify import Bundle
        from dnexport.cli.flags import said
        from dnexport.cli.output import again, check_report, write_measured
        from dnexport.cli.render import documents, show_benchmarks, show_judgements
        from dnexport.deploy.remeasure import judged_again, measure_bundle, reports_now, required_again
        from dnexport.deploy.reports import measured_report
        from dnexport.measure.budgets import exit_code
        from dnexport.spec.recipe import Bench

        check_report(output)
        opened = Bundle.open(bundle, expect_digest)
        budgets = required_again(opened, require)
        asked = said(
            {
                "restarts": restarts,
                "rounds": rounds,
                "block_s": block,
                "batch": batch,
                "threads": threads,
                "queries": queries,
                "duration_s": duration,
                "scenarios": tuple(each.value for each in scenario or ()),
                "cuda_graph": cuda_graph,
                "compile": compiled,
            }
        )
        protocol = Bench.model_validate({**opened.manifest.recipe.measured.model_dump(), **asked})
        protocol = protocol.enough_for(budgets)
        found = measure_bundle(opened, target, protocol, reference_factory(opened.manifest), view)
        reports = reports_now(opened, {name: {"benchmark": each} for name, each in found.items()})
        judged = judged_again(budgets, reports)
        command = again("bench", bundle, protocol.flags(opened.manifest.recipe.measured), target, require, output)
        measured = measured_report(opened, str(bundle), reports, judged, command)
        measured = measured.model_copy(update={"bench": protocol})
        if output is not None:
            write_measured(measured, output)
        view.document(documents(opened, {name: each.model_dump(mode="json") for name, each in found.items()}, judged))
        show_benchmarks(view, measured)
        show_judgements(view, judged)
        if output is not None:
            view.say(f"report  {output.resolve()}")
        raise typer.Exit(exit_code(judged))
