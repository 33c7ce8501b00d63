"""From what a recipe says of the weights to a network: where it comes from, what it is, how to make it.

The weights are a file, ``pretrained``, ``random[:seed]`` or ``auto``: pretrained if they can be had within five seconds
of trying, else random with a warning. PyTorch is imported only to look into a checkpoint and to make the module.
"""

import importlib.util
import os
import socket
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from dnexport.data.datasets import nameless_classes
from dnexport.errors import CheckpointError, DataError, RecipeError
from dnexport.spec.archs import AnyArch, Arch, arch_from_text
from dnexport.spec.manifest import Manifest, Weights
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.recipe import PreprocessChoice, Recipe
from dnexport.spec.record import Record, digest_from_file, digest_from_json, sentence_from_validation_error
from dnexport.spec.training import CheckpointMetadata

if TYPE_CHECKING:
    from torch import nn

PRETRAINED_BASE = "https://download.pytorch.org/models/"
# torchvision's files; a name carries the first digits of the file's SHA-256, which torch hub checks.
PRETRAINED_FILES = {
    "densenet121": "densenet121-a639ec97.pth",
    "densenet161": "densenet161-8d451a50.pth",
    "densenet169": "densenet169-b2777c0a.pth",
    "densenet201": "densenet201-c1103571.pth",
}
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Source:
    """Where weights come from, before anything is loaded.

    Attributes:
        kind: file, pretrained or random.
        file: of the first two.
        seed: of the last.
    """

    kind: Literal["file", "pretrained", "random"]
    file: Path | None = None
    seed: int = 0

    def digest(self) -> str:
        """SHA-256 of the file, or the seed in words.

        Raises:
            CheckpointError: the file cannot be read.
        """
        if self.file is None:
            return f"random:{self.seed}"
        try:
            return digest_from_file(self.file)
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise CheckpointError(f"checkpoint {self.file} cannot be read: {reason}", "check its permissions") from exc


@dataclass(frozen=True)
class ModuleFactory:
    """Makes the PyTorch module, in whichever process it is called."""

    source: Source
    arch: AnyArch
    input_size: tuple[int, int]

    def __call__(self) -> "nn.Module":
        """The module, in evaluation mode."""
        from dnexport.models.zoo import module_from_file, module_from_seed

        if self.source.file is not None:
            return module_from_file(self.source.file, self.arch)
        return module_from_seed(self.arch, self.input_size, self.source.seed)


class Network(Record):
    """What a checkpoint and the flags together determine.

    Attributes:
        arch: the network.
        arch_name: its name, where it has one.
        preprocess: pinned.
        assumed: fields of ``preprocess`` that neither a flag nor the checkpoint stated.
        class_names: one a class.
        multi_label: each class is a question of its own (a sigmoid each), not one of several.
    """

    arch: Arch
    arch_name: str | None
    preprocess: Preprocess
    assumed: tuple[str, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False

    def factory(self, source: Source) -> ModuleFactory:
        """Makes the module of this network."""
        return ModuleFactory(source, self.arch, self.preprocess.input_size)

    def weights(self, source: Source) -> Weights:
        """The manifest's word on the weights."""
        if source.file is None:
            digest = digest_from_json(
                ["random", self.arch.content_digest(), list(self.preprocess.input_size), source.seed]
            )
            return Weights(source="random", file=None, digest=digest, trained=False)
        return Weights(source=source.kind, file=source.file.name, digest=source.digest(), trained=True)


def source_from_recipe(recipe: Recipe, progress: Progress) -> Source:
    """Decide where the weights come from; downloads pretrained ones where it must.

    Raises:
        RecipeError: a seed that is no number.
        CheckpointError: no such file, or ``pretrained`` weights that cannot be had.
    """
    word, _, detail = recipe.weights.partition(":")
    if word == "random":
        if detail and not (detail.isascii() and detail.isdecimal() and len(detail) < 19):
            raise RecipeError(f"weights '{recipe.weights}' has '{detail}' where a seed belongs", "write random:7")
        return Source("random", seed=int(detail or 0))
    if word in ("auto", "pretrained"):
        arch_from_text(recipe.arch or "")
        file = _pretrained(recipe.arch or "", must=word == "pretrained", progress=progress)
        if file is not None:
            return Source("pretrained", file)
        progress.warn(
            "no pretrained weights could be had, so the weights are RANDOM: latency and parity mean something, "
            "accuracy does not (give --weights FILE)"
        )
        return Source("random")
    path = Path(recipe.weights)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}", "give a .pt, .pth, .tar or .safetensors file")
    return Source("file", path.resolve())


def network_from_source(recipe: Recipe, source: Source) -> Network:
    """Look into the checkpoint and apply the recipe's flags. Imports PyTorch for a file.

    Raises:
        ArchError: unknown architecture.
        CheckpointError: the file cannot be read, or does not fit strictly.
        RecipeError: the preprocessing does not fit the network.
        DataError: the class names do not fit the classes.
    """
    metadata: CheckpointMetadata | None = None
    multi_label = False
    if source.file is None:
        arch: AnyArch = arch_from_text(recipe.arch or "")
    else:
        from dnexport.models.zoo import recognised_from_file

        wanted = arch_from_text(recipe.arch) if recipe.arch else None
        found = recognised_from_file(source.file, wanted).deployed()
        arch, metadata, multi_label = found.arch, found.metadata, found.multi_label
    names = metadata.class_names if metadata else ()
    arch_name = recipe.arch or (metadata.arch_name if metadata else None)
    preprocess, assumed = _preprocess(recipe.preprocess, metadata.preprocess if metadata else None, arch)
    return Network(
        arch=arch,
        arch_name=arch_name,
        preprocess=preprocess,
        assumed=assumed,
        class_names=_class_names(recipe, names, arch),
        multi_label=multi_label,
    )


def reference_factory(manifest: Manifest) -> ModuleFactory | None:
    """Makes the bundle's PyTorch module; None where PyTorch or those very weights are not here."""
    if importlib.util.find_spec("torch") is None:
        return None
    network = Network(
        arch=manifest.arch,
        arch_name=manifest.arch_name,
        preprocess=manifest.preprocess,
        assumed=manifest.assumed,
        class_names=manifest.class_names,
    )
    word, _, seed = manifest.recipe.weights.partition(":")
    source = (
        Source("random", seed=int(seed or 0)) if word == "random" else Source("file", Path(manifest.recipe.weights))
    )
    if source.file is not None and not source.file.is_file():
        return None
    return network.factory(source) if network.weights(source).digest == manifest.weights.digest else None


def _preprocess(
    choice: PreprocessChoice, stated: Preprocess | None, arch: AnyArch
) -> tuple[Preprocess, tuple[str, ...]]:
    """Flags, else the checkpoint, else torchvision's defaults; and which fields the last of these gave."""
    default = arch.preprocess
    if arch.channels == 1:
        default = default.model_copy(update={"channels": "grey", "mean": (0.5,), "std": (0.5,)})
    base = stated or default
    said = {name: value for name, value in choice.model_dump().items() if value is not None}
    cropped = said.pop("crop", None)
    if cropped is False:
        said["resize"] = None
    elif (
        "resize" not in said and (cropped or base.resize is not None) and ("input_size" in said or base.resize is None)
    ):
        # torchvision's proportion: 256 for a crop of 224.
        said["resize"] = round(max(said.get("input_size", base.input_size)) * 256 / 224)
        if cropped is None and stated is None:
            default = default.model_copy(update={"resize": said.pop("resize")})
            base = default
    assumed = () if stated else tuple(name for name in Preprocess.model_fields if name not in said)
    try:
        preprocess = Preprocess.model_validate(base.model_dump() | said)
    except ValidationError as exc:
        what, remedy = sentence_from_validation_error(exc, Preprocess.model_fields)
        raise RecipeError(f"preprocessing: {what}", remedy) from exc
    if preprocess.planes != arch.channels:
        raise RecipeError(
            f"preprocessing gives {preprocess.planes} channels and the arch takes {arch.channels}",
            "set --channels rgb or --channels grey",
        )
    if (reason := arch.refusal(*preprocess.input_size)) is not None:
        height, width = preprocess.input_size
        raise RecipeError(f"input size {height}×{width} cannot be: {reason}", "set another --input-size")
    return preprocess, assumed


def _class_names(recipe: Recipe, names: tuple[str, ...], arch: AnyArch) -> tuple[str, ...]:
    if recipe.class_names is not None:
        try:
            lines = Path(recipe.class_names).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(
                f"class names {recipe.class_names} cannot be read", "give a text file with one name a line"
            ) from exc
        names = tuple(line.strip() for line in lines if line.strip())
    if names and len(names) != arch.classes:
        raise DataError(f"{len(names)} class names are given for {arch.classes} classes", "give one name a class")
    return names or nameless_classes(arch.classes)


def _pretrained(arch: str, *, must: bool, progress: Progress) -> Path | None:
    name = PRETRAINED_FILES.get(arch.strip().lower())
    if name is None:
        if must:
            raise CheckpointError(
                f"there are no pretrained weights for arch '{arch}'", f"known: {', '.join(PRETRAINED_FILES)}"
            )
        return None
    cached = _hub_folder() / "checkpoints" / name
    if cached.is_file():
        return cached
    url = PRETRAINED_BASE + name
    try:
        _wait_for_host(url)
        _download(url, cached, progress)
    except (OSError, RuntimeError) as exc:
        if must:
            raise CheckpointError(
                f"{url} cannot be downloaded: {exc}", f"place the file at {cached}, or use --weights FILE"
            ) from exc
        return None
    return cached


def _download(url: str, cached: Path, progress: Progress) -> None:
    import torch

    progress.start(f"download {url}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    prefix = cached.stem.partition("-")[2]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)  # torch hub sets none: a stalled transfer would hang for ever
    try:
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix, progress=False)
    finally:
        socket.setdefaulttimeout(patience)


def _hub_folder() -> Path:
    """torch hub's folder, by its documented rule, without importing PyTorch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub"


def _wait_for_host(url: str) -> None:
    """Raise OSError unless a URL's host answers within `PATIENCE_S`; the name look-up has no time-out of its own."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    outcome: list[OSError | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE_S).close()
            outcome.append(None)
        except OSError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not outcome:
        raise TimeoutError(f"{host} did not answer within {PATIENCE_S:g} s")
    if outcome[0] is not None:
        raise outcome[0]
