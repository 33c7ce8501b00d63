"""``dnexport compile``"""

import typer

from dnexport.cli import options as o


def compile_command(
    bundle: o.BundleFolder,
    target: o.TargetName = None,
    expect_digest: o.ExpectDigest = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Build a bundle's engines on the machine that will run them, without PyTorch or ONNX tooling."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        from dnexport.bundle.verify import Bundle
        from dnexport.cli.render import show_build
        from dnexport.deploy.native import compile_bundle
        from dnexport.measure.budgets import exit_code

        before = Bundle.open(bundle, expect_digest)
        after = compile_bundle(before, target, view)
        show_build(view, after, ())
        view.say(f"its digest was {before.digest}")
        raise typer.Exit(exit_code(after.judgements))
