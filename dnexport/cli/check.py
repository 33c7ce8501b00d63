"""``dnexport check``"""

import typer

from dnexport.cli import options as o


def check(
    bundle: o.BundleFolder,
    target: o.TargetName = None,
    expect_digest: o.ExpectDigest = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Say of each engine whether it can be used on this machine, and try it on golden samples."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        from dnexport.bundle.verify import Bundle
        from dnexport.cli.render import show_checks
        from dnexport.deploy.check import check_bundle

        found = check_bundle(Bundle.open(bundle, expect_digest), target, view)
        show_checks(view, found)
        if not any(each.usable for each in found):
            raise typer.Exit(4 if all(each.self_test is None for each in found) else 5)
