"""``dnexport train``"""

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dnexport.cli import options as o

_START, _RECIPE, _EXECUTION = "Start", "Recipe (each flag overrides --recipe)", "Execution"


class Autocast(str, Enum):
    """What training computes in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Accelerator(str, Enum):
    """Where training runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def train(
    data: Annotated[
        str,
        typer.Option(
            help="'digits', a folder with train/ and val/ (or test/), one of class folders, or one that holds the "
            "binary CIFAR-10 or -100, or SVHN's .mat files.",
        ),
    ],
    arch: Annotated[
        str | None, typer.Option(help="A name from 'dnexport archs'.", show_default=False, rich_help_panel=_START)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="A checkpoint to go on from (fine-tuning).", show_default=False, rich_help_panel=_START),
    ] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Replace its classifier by a fresh one.", rich_help_panel=_START)
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the state beside the output.", rich_help_panel=_START)
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint, a .safetensors file.")] = Path(
        "model.safetensors"
    ),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits, short, cifar, cifar+, svhn, imagenet, condensenet-cifar+ or condensenet-imagenet; the "
            "default is digits for the digits, else short.",
            show_default=False,
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training part.", rich_help_panel=_RECIPE)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Images a step, over all processes.", rich_help_panel=_RECIPE)
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Micro-batches a step in each process.", rich_help_panel=_RECIPE)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9, help="The highest.", rich_help_panel=_RECIPE)] = None,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Of every dense layer.", rich_help_panel=_RECIPE)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(min=0, max=0.99999, help="Decay of the averaged weights; 0 for none.", rich_help_panel=_RECIPE),
    ] = None,
    shift: Annotated[
        int | None, typer.Option(min=0, help="Pixels of padding for a random crop.", rich_help_panel=_RECIPE)
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Flip half of the pictures.", rich_help_panel=_RECIPE),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="A part that keeps its weights, such as features.denseblock1; repeatable.",
            show_default=False,
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of initialisation, order and augmentation.", rich_help_panel=_RECIPE)
    ] = None,
    test_every: Annotated[
        int | None, typer.Option(min=1, help="Epochs between tests.", rich_help_panel=_RECIPE)
    ] = None,
    precision: Annotated[
        Autocast | None, typer.Option(help="Autocast.", show_default="auto", rich_help_panel=_EXECUTION)
    ] = None,
    memory_efficient: Annotated[
        bool | None,
        typer.Option(
            "--memory-efficient",
            help="Less memory for more time: recompute concatenations.",
            rich_help_panel=_EXECUTION,
        ),
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile", help="With torch.compile.", rich_help_panel=_EXECUTION)
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option("--channels-last/--channels-first", help="NHWC in memory.", rich_help_panel=_EXECUTION),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic", help="The same bits each time.", rich_help_panel=_EXECUTION),
    ] = None,
    accelerator: Annotated[Accelerator, typer.Option(help="Where.", rich_help_panel=_EXECUTION)] = Accelerator.AUTO,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Threads that decode pictures, or processes that cut resized crops.",
            show_default="one a processor, eight at most",
            rich_help_panel=_EXECUTION,
        ),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a DenseNet; the checkpoint says all that 'dnexport build --weights' needs."""
    from dnexport.cli.terminal import terminal

    # Of the processes that torchrun starts, the first one speaks.
    mute = os.environ.get("RANK", "0") != "0"
    with terminal(as_json=as_json, quiet=quiet, mute=mute, debug=debug) as view:
        from dnexport.spec.recipe import training_recipe

        resolved = training_recipe(
            recipe or ("digits" if data == "digits" else "short"),
            epochs=epochs,
            batch=batch,
            accumulate=accumulate,
            learning_rate=learning_rate,
            dropout=dropout,
            ema=ema,
            shift=shift,
            mirror=mirror,
            freeze=tuple(freeze) if freeze else None,
            seed=seed,
            test_every=test_every,
            precision=precision.value if precision else None,
            memory_efficient=memory_efficient,
            compile=compiled,
            channels_last=channels_last,
            deterministic=deterministic,
        )
        from dnexport.build.training import TrainingRequest, train_from_data

        request = TrainingRequest(
            source=data,
            arch=arch,
            recipe=resolved,
            output=output,
            weights=weights,
            new_head=new_head,
            resume=resume,
            workers=workers,
            accelerator=accelerator.value,
        )
        trained = train_from_data(request, view)
        found = trained.metadata
        view.document(
            {
                "checkpoint": str(trained.path.resolve()),
                "test_top1": found.test_top1,
                "test_images": found.test_images,
                "epochs": [row.model_dump(mode="json") for row in trained.history],
                "seconds": round(trained.seconds, 1),
            }
        )
        weights_kept = "averaged weights" if resolved.ema else "last weights"
        view.say(
            f"top-1 {found.test_top1:.2%} of the {weights_kept} on {found.test_images} held-out images after "
            f"{trained.seconds:.0f} s"
        )
        view.say(f"checkpoint  {trained.path.resolve()}")
