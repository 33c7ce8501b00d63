"""``dnexport bench``"""

from typing import Annotated

import typer

from dnexport.cli import options as o


def bench(
    bundle: o.BundleFolder,
    target: o.TargetName = None,
    expect_digest: o.ExpectDigest = None,
    restarts: Annotated[int, typer.Option(min=1, help="Sets of processes, one after another.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Alternations between engine and PyTorch in each set.")] = 2,
    block: Annotated[float, typer.Option(min=0.01, help="Least length of a block of queries, seconds.")] = 0.2,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a query.", show_default="1, or the least it takes")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of every session.", show_default="all processors")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Queries of each engine, at the least.", show_default=False)
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of measuring, at the least.", show_default=False)
    ] = None,
    scenario: Annotated[
        list[o.ScenarioName] | None,
        typer.Option(help="MLPerf's scenario to measure too; may be repeated.", show_default=False),
    ] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph/--no-cuda-graph", help="Launch a query as one CUDA graph, on a GPU.")
    ] = True,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile compete as a reference.")] = False,
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
        from dnexport.cli.output import again, check_report, write_measured
        from dnexport.cli.render import documents, show_benchmarks, show_judgements
        from dnexport.deploy.remeasure import judged_again, measure_bundle, required_again
        from dnexport.deploy.reports import report_of_benchmarks
        from dnexport.measure.budgets import exit_code
        from dnexport.spec.recipe import Bench

        check_report(output)
        opened = Bundle.open(bundle, expect_digest)
        budgets = required_again(opened, require)
        images = batch or opened.manifest.recipe.profile.within(1)
        protocol = Bench(
            restarts=restarts,
            rounds=rounds,
            block_s=block,
            batch=images,
            threads=threads,
            queries=queries,
            duration_s=duration,
            scenarios=tuple(each.value for each in scenario or ()),
            cuda_graph=cuda_graph,
            compile=compiled,
        )
        found = measure_bundle(opened, target, protocol, reference_factory(opened.manifest), view)
        judged = judged_again(opened, budgets, {name: {"benchmark": each} for name, each in found.items()})
        if output is not None:
            command = again("bench", bundle, protocol.flags, target, require, output)
            write_measured(report_of_benchmarks(opened, str(bundle), found, protocol, judged, command), output)
        view.document(documents(opened, {name: each.model_dump(mode="json") for name, each in found.items()}, judged))
        show_benchmarks(view, found)
        show_judgements(view, judged)
        if output is not None:
            view.say(f"report  {output.resolve()}")
        raise typer.Exit(exit_code(judged))
