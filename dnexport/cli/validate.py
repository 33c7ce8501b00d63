"""``dnexport validate``"""

import typer

from dnexport.cli import options as o


def validate(
    bundle: o.BundleFolder,
    target: o.TargetName = None,
    expect_digest: o.ExpectDigest = None,
    data: o.Data = None,
    require: o.Require = None,
    output: o.MeasuredReport = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Compare engines with PyTorch again: on the bundle's golden samples, or on other data."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        from dnexport.build.network import reference_factory
        from dnexport.bundle.verify import Bundle
        from dnexport.cli.output import again, check_report, write_measured
        from dnexport.cli.render import accuracy_notes, accuracy_text, documents, show_judgements
        from dnexport.deploy.remeasure import judged_again, reports_now, required_again, validate_bundle
        from dnexport.deploy.reports import measured_report, tested_images, with_images
        from dnexport.measure.budgets import exit_code

        check_report(output)
        opened = Bundle.open(bundle, expect_digest)
        budgets = required_again(opened, require)
        found = validate_bundle(opened, target, data, reference_factory(opened.manifest), view)
        reports = reports_now(opened, {name: each.fields for name, each in found.items()})
        judged = judged_again(budgets, reports)
        if output is not None:
            command = again("validate", bundle, ["--data", data] if data else [], target, require, output)
            measured = measured_report(opened, str(bundle), reports, judged, command)
            images = tested_images(opened, data)
            write_measured(with_images(measured, images, answered_here=data is not None), output)
        view.document(
            documents(opened, {name: v.accuracy.model_dump(mode="json") for name, v in found.items()}, judged)
        )
        rows = [
            [name, str(v.executed.execution), f"{v.accuracy.agreement:.2%}", accuracy_text(v.accuracy)]
            for name, v in found.items()
        ]
        view.table(["Target", "Executed", "Agreement", "Against PyTorch"], rows)
        for name, each in found.items():
            for note in (*each.notes, *accuracy_notes(each.accuracy)):
                view.say(f"  {name}: {note}")
        show_judgements(view, judged)
        if output is not None:
            view.say(f"report  {output.resolve()}")
        raise typer.Exit(exit_code(judged))
