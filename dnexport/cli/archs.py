"""``dnexport archs``"""

from dnexport.cli.options import Json


def archs(as_json: Json = False) -> None:
    """List the architectures: parameters, multiply-adds, published error."""
    from dnexport.cli.terminal import terminal
    from dnexport.spec.arch import NAMED

    with terminal(as_json=as_json) as view:
        document = [
            {
                "name": name,
                "parameters": named.arch.parameters,
                "macs": named.arch.macs(named.input_size, named.input_size),
                "input": [named.arch.channels, named.input_size, named.input_size],
                "published_top1_error": named.published_top1_error,
                "source": named.source,
            }
            for name, named in NAMED.items()
        ]
        view.document(document)
        if not as_json:
            rows = [
                [str(row["name"]), f"{row['parameters']:,}", f"{row['macs'] / 1e9:.3f}", "×".join(map(str, row["input"])),
                 "–" if row["published_top1_error"] is None else f"{row['published_top1_error']:.2f} %", str(row["source"])]
                for row in document
            ]  # fmt: skip
            view.table(["Name", "Parameters", "GMACs", "Input", "Top-1 error", "Source"], rows)
