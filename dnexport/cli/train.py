"""``dnexport train``"""

from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli import options as o


def train(
    data: Annotated[
        str, typer.Option(help="'digits', or a folder with train/ and val/ (or test/), or of class folders.")
    ],
    arch: Annotated[str, typer.Option(help="A name from 'dnexport archs'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint, a .safetensors file.")] = Path(
        "model.safetensors"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="The highest of the cycle.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, order and augmentation.")] = 0,
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip half of the pictures left to right.")] = False,
    memory_efficient: Annotated[
        bool, typer.Option("--memory-efficient", help="Less memory for more time: recompute concatenations.")
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a DenseNet; the checkpoint says all that 'dnexport build --weights' needs."""
    from dnexport.cli.terminal import terminal
    from dnexport.spec.training import TrainingRecipe

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        recipe = TrainingRecipe(
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
            mirror=mirror,
            memory_efficient=memory_efficient,
        )
        from dnexport.build.training import train_from_data

        trained = train_from_data(data, arch, recipe, output, view)
        found = trained.metadata
        view.document(
            {
                "checkpoint": str(trained.path.resolve()),
                "test_top1": found.test_top1,
                "test_images": found.test_images,
                "seconds": round(trained.seconds, 1),
            }
        )
        view.say(f"top-1 {found.test_top1:.2%} on {found.test_images} held-out images after {trained.seconds:.0f} s")
        view.say(f"checkpoint  {trained.path.resolve()}")
