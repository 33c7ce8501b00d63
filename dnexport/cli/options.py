"""Flags that several commands share, each written once."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class InterpolationName(str, Enum):
    """Pillow's resampling filters."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class ChannelOrder(str, Enum):
    """Order of the colour planes."""

    RGB = "rgb"
    BGR = "bgr"
    GREY = "grey"


class ObserverChoice(str, Enum):
    """How ranges follow from what is seen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class PlacementChoice(str, Enum):
    """Where Q/DQ stand."""

    ACTIVATION = "activation"
    STATE = "state"
    AUTO = "auto"


class InputChoice(str, Enum):
    """What engines are fed."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class ScenarioName(str, Enum):
    """MLPerf's, beside single queries."""

    MULTI_STREAM = "multi-stream"
    OFFLINE = "offline"


class AllowedExecution(str, Enum):
    """What a CPU may execute for fp16, around int8 or in place of it."""

    BF16 = "bf16"
    F32 = "f32"
    INT8_SATURATING = "int8-saturating"


_SOURCE, _PICTURES, _OUTPUT = "Network", "Preprocessing", "Output"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=_OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=_OUTPUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=_OUTPUT)]

RecipeFile = Annotated[Path | None, typer.Argument(help="A recipe (TOML); flags override it.", show_default=False)]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle that 'dnexport build' made.", show_default=False)]
Arch = Annotated[
    str | None,
    typer.Option(
        help="A name from 'dnexport archs', or a form: densenet(blocks=6-12,k=32).",
        show_default=False,
        rich_help_panel=_SOURCE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Any other torch.nn.Module: package.module:function.", show_default=False, rich_help_panel=_SOURCE
    ),
]
Onnx = Annotated[
    str | None,
    typer.Option(
        "--onnx", help="A float ONNX graph that another exporter wrote.", show_default=False, rich_help_panel=_SOURCE
    ),
]
Classes = Annotated[
    int | None, typer.Option(min=1, help="Classes of the network.", show_default=False, rich_help_panel=_SOURCE)
]
NewHead = Annotated[
    bool,
    typer.Option("--new-head", help="Replace the checkpoint's classifier by a fresh one.", rich_help_panel=_SOURCE),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint file, pretrained, random[:seed] or auto.", show_default=False, rich_help_panel=_SOURCE
    ),
]
ClassNames = Annotated[
    str | None, typer.Option(help="Text file, one class name a line.", show_default=False, rich_help_panel=_SOURCE)
]
Data = Annotated[
    str | None,
    typer.Option(
        help="'digits'; a folder with train/ and val/ (or test/), or of class folders; CIFAR or SVHN; or images with"
        " a labels.csv.",
        show_default=False,
    ),
]
CalibrationData = Annotated[
    str | None,
    typer.Option(help="Images that calibrate INT8, instead of the training part of --data.", show_default=False),
]
CalibrationImages = Annotated[int | None, typer.Option(help="How many images calibrate INT8.", show_default=False)]
Observer = Annotated[
    ObserverChoice | None,
    typer.Option(help="How ranges follow from what is seen.", show_default="minmax"),
]
InputSize = Annotated[
    int | None, typer.Option(help="Height and width, pixels.", show_default=False, rich_help_panel=_PICTURES)
]
Resize = Annotated[
    int | None,
    typer.Option(help="Shorter side before the crop, pixels.", show_default=False, rich_help_panel=_PICTURES),
]
Crop = Annotated[
    bool | None,
    typer.Option(
        "--crop/--no-crop",
        help="Centred crop, or resize straight to the input size.",
        show_default=False,
        rich_help_panel=_PICTURES,
    ),
]
Interpolation = Annotated[
    InterpolationName | None, typer.Option(help="Resampling filter.", show_default=False, rich_help_panel=_PICTURES)
]
Channels = Annotated[
    ChannelOrder | None, typer.Option(help="Colour planes.", show_default=False, rich_help_panel=_PICTURES)
]
Mean = Annotated[
    str | None,
    typer.Option(help="Per channel, 0 to 1, as 0.485,0.456,0.406.", show_default=False, rich_help_panel=_PICTURES),
]
Std = Annotated[
    str | None,
    typer.Option(help="Per channel, 0 to 1, as 0.229,0.224,0.225.", show_default=False, rich_help_panel=_PICTURES),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        help="A budget: top1-drop<= (points), top1>= and agreement>= (%), snr>= (dB), p50<=, p90<= and p99<= (ms),"
        " throughput>= (images/s), speedup>= (×), size<= (MB); may be repeated.",
        show_default=False,
    ),
]
ExpectDigest = Annotated[
    str | None,
    typer.Option(help="The bundle's digest, as 'dnexport build' printed it; another is refused.", show_default=False),
]
TargetName = Annotated[str | None, typer.Option("--target", help="One target of the bundle.", show_default=False)]
MeasuredReport = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write a report of it: .json, .md or .html.", show_default=False),
]
