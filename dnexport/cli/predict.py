"""``dnexport predict``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli import options as o


def predict(
    bundle: o.BundleFolder,
    images: Annotated[list[Path], typer.Argument(help="Pictures.", show_default=False)],
    target: o.TargetName = None,
    expect_digest: o.ExpectDigest = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Name the five likeliest classes of each picture."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.bundle.verify import Bundle
        from dnexport.deploy.predict import predictions

        answers = predictions(Bundle.open(bundle, expect_digest), images, target)
        view.document({str(answer.image): [guess._asdict() for guess in answer.guesses] for answer in answers})
        if not as_json:
            for answer in answers:
                view.say(f"{answer.image}")
                for guess in answer.guesses:
                    view.say(f"  {guess.probability:7.2%}  {guess.name}")
