"""``dnexport archs``"""

from dnexport.cli.options import Json


def archs(as_json: Json = False) -> None:
    """List the architectures: parameters, multiply-adds, published error."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json) as view:
        from dnexport.spec.archs import NAMED

        document = [{"name": name, **named.document()} for name, named in NAMED.items()]
        view.document(document)
        if not as_json:
            rows = [
                [
                    name,
                    f"{named.arch.parameters:,}",
                    f"{named.macs / 1e9:.3f}",
                    "×".join(map(str, named.input)),
                    "–" if named.published_top1_error is None else f"{named.published_top1_error:.2f} %",
                    named.source,
                ]
                for name, named in NAMED.items()
            ]
            view.table(["Name", "Parameters", "GMACs", "Input", "Top-1 error", "Source"], rows)
