"""From what a recipe says of the weights to a network: where it comes from, what it is, how to make it.

The weights are a file, ``pretrained``, ``random[:seed]`` or ``auto``: pretrained if they can be had within five seconds
of trying, else random with a warning. PyTorch is imported only to look into a checkpoint and to make the module.
"""

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from dnexport.build.pretrained import pretrained
from dnexport.data.imageset import nameless_classes
from dnexport.errors import ArchError, CheckpointError, DataError, RecipeError
from dnexport.spec.archs import AnyArch, Arch, FamilyArch, GraphArch, ModuleArch, arch_from_text
from dnexport.spec.manifest import Manifest, Weights
from dnexport.spec.preprocess import IMAGENET, Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.recipe import PreprocessChoice, Recipe
from dnexport.spec.record import Record, digest_from_file, digest_from_json, sentence_from_validation_error
from dnexport.spec.training import CheckpointMetadata

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Source:
    """Where weights come from, before anything is loaded.

    Attributes:
        kind: file, pretrained, random, ``factory``: as the user's own function makes them, or ``graph``: in an ONNX
            file that another exporter wrote.
        file: of the first two, or the graph.
        seed: of the last two.
        model: the user's function, where the network is not of the family.
        new_head: the file's classifier is replaced by a fresh one.
    """

    kind: Literal["file", "pretrained", "random", "factory", "graph"]
    file: Path | None = None
    seed: int = 0
    model: str | None = None
    new_head: bool = False

    @property
    def trained(self) -> bool:
        """Whether accuracy can mean anything."""
        return self.kind != "random" and not self.new_head

    def digest(self) -> str:
        """SHA-256 of the file, and of those beside it that hold a graph's weights; or the seed in words.

        Raises:
            CheckpointError: the file cannot be read.
            GraphError: a graph is not readable, or a file that it names is not there.
        """
        head = ":new head" if self.new_head else ""
        if self.file is None:
            return f"{self.kind}:{self.seed}"
        try:
            beside = _external_files(self.file) if self.kind == "graph" else []
            if beside:
                return digest_from_json([digest_from_file(each) for each in (self.file, *beside)])
            return digest_from_file(self.file) + head
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise CheckpointError(f"checkpoint {self.file} cannot be read: {reason}", "check its permissions") from exc


def _external_files(graph: Path) -> list[Path]:
    from dnexport.graph.contract import external_files

    return external_files(graph)


@dataclass(frozen=True)
class ModuleFactory:
    """Makes the PyTorch module, in whichever process it is called."""

    source: Source
    arch: FamilyArch | ModuleArch
    input_size: tuple[int, int]

    def __call__(self) -> "nn.Module":
        """The module, in evaluation mode."""
        source = self.source
        if isinstance(self.arch, ModuleArch):
            from dnexport.models.foreign import module_from_factory

            return module_from_factory(self.arch.factory, seed=source.seed, weights=source.file)
        from dnexport.models.zoo import module_from_file, module_from_seed

        if source.file is not None:
            return module_from_file(source.file, self.arch, new_head=source.new_head)
        return module_from_seed(self.arch, self.input_size, source.seed)


class Network(Record):
    """What a checkpoint and the flags together determine.

    Attributes:
        arch: the network.
        arch_name: its name, where it has one.
        preprocess: pinned.
        assumed: fields of ``preprocess``, and of ``arch``, that neither a flag nor the checkpoint stated.
        class_names: one a class.
        multi_label: each class is a question of its own (a sigmoid each), not one of several.
        answers: digest of what a module of the user's answered here: code that no known file shows (helpers,
            configurations) shows in that.
    """

    arch: Arch
    arch_name: str | None
    preprocess: Preprocess
    assumed: tuple[str, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False
    answers: str | None = None

    def factory(self, source: Source) -> ModuleFactory | None:
        """Makes the module of this network; None where it has none, but a graph."""
        if isinstance(self.arch, GraphArch):
            return None
        return ModuleFactory(source, self.arch, self.preprocess.input_size)

    def weights(self, source: Source) -> Weights:
        """The manifest's word on the weights."""
        if source.file is None:
            digest = digest_from_json(
                [source.kind, self.arch.content_digest(), list(self.preprocess.input_size), source.seed]
            )
            return Weights(source=source.kind, file=None, digest=digest, trained=source.trained)
        return Weights(source=source.kind, file=source.file.name, digest=source.digest(), trained=source.trained)


def source_from_recipe(recipe: Recipe, progress: Progress) -> Source:
    """Decide where the weights come from; downloads pretrained ones where it must.

    Raises:
        RecipeError: a seed that is no number.
        CheckpointError: no such file, or ``pretrained`` weights that cannot be had.
    """
    if recipe.onnx is not None:
        return Source("graph", _existing(recipe.onnx, "graph", "give an .onnx file"))
    if recipe.model is not None:
        return _foreign_source(recipe)
    source = _family_source(recipe, progress)
    if not recipe.new_head:
        return source
    if source.file is None:
        raise RecipeError("a new head replaces the one of a checkpoint, and there is none", "add --weights FILE")
    progress.warn("the new head is RANDOM: latency and parity mean something, accuracy does not")
    return dataclasses.replace(source, new_head=True)


def _family_source(recipe: Recipe, progress: Progress) -> Source:
    word, _, detail = recipe.weights.partition(":")
    if word == "random":
        return Source("random", seed=_seed(recipe.weights, detail))
    if word in ("auto", "pretrained"):
        arch_from_text(recipe.arch or "")
        file = pretrained(recipe.arch or "", must=word == "pretrained", progress=progress)
        if file is not None:
            return Source("pretrained", file)
        progress.warn(
            "no pretrained weights could be had, so the weights are RANDOM: latency and parity mean something, "
            "accuracy does not (give --weights FILE)"
        )
        return Source("random")
    return Source("file", _existing(recipe.weights))


def _foreign_source(recipe: Recipe) -> Source:
    word, _, detail = recipe.weights.partition(":")
    if word == "random":
        return Source("random", seed=_seed(recipe.weights, detail), model=recipe.model)
    if word == "auto":
        return Source("factory", model=recipe.model)
    return Source("file", _existing(recipe.weights), model=recipe.model)


def _seed(weights: str, detail: str) -> int:
    if detail and not (detail.isascii() and detail.isdecimal() and len(detail) < 19):
        raise RecipeError(f"weights '{weights}' has '{detail}' where a seed belongs", "write random:7")
    return int(detail or 0)


def _existing(name: str, what: str = "checkpoint", remedy: str = "give a .pt, .pth, .tar or .safetensors file") -> Path:
    path = Path(name)
    if not path.is_file():
        why = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{what} {path} {why}", remedy)
    return path.resolve()


def network_from_source(recipe: Recipe, source: Source) -> Network:
    """Look into the checkpoint and apply the recipe's flags. Imports PyTorch for a file.

    Raises:
        ArchError: unknown architecture.
        CheckpointError: the file cannot be read, or does not fit strictly.
        RecipeError: the preprocessing does not fit the network.
        DataError: the class names do not fit the classes.
    """
    if source.model is not None:
        return _foreign_network(recipe, source)
    if source.kind == "graph":
        return _graph_network(recipe, source)
    metadata: CheckpointMetadata | None = None
    multi_label = False
    untold: tuple[str, ...] = ()
    if source.file is None:
        arch: AnyArch = arch_from_text(recipe.arch or "")
        if recipe.classes is not None:
            arch = arch.model_copy(update={"classes": recipe.classes})
    else:
        from dnexport.models.zoo import recognised_from_file

        wanted = arch_from_text(recipe.arch) if recipe.arch else None
        found = recognised_from_file(source.file, wanted, new_head=recipe.classes if source.new_head else None)
        found = found.deployed()
        if recipe.classes not in (None, found.arch.classes):
            raise CheckpointError(
                f"checkpoint {source.file} has {found.arch.classes} classes where {recipe.classes} are asked for",
                "add --new-head to replace its classifier",
            )
        arch, metadata, multi_label, untold = found.arch, found.metadata, found.multi_label, found.assumed
    names = metadata.class_names if metadata and not source.new_head else ()
    arch_name = recipe.arch or (metadata.arch_name if metadata else None)
    preprocess, assumed = _preprocess(recipe.preprocess, metadata.preprocess if metadata else None, arch)
    return Network(
        arch=arch,
        arch_name=arch_name,
        preprocess=preprocess,
        assumed=(*untold, *assumed),
        class_names=_class_names(recipe, names, arch),
        multi_label=multi_label,
    )


def _foreign_network(recipe: Recipe, source: Source) -> Network:
    """A module of the user's: its channels and classes are found by running it."""
    from dnexport.models.foreign import arch_from_factory, module_from_factory, state_digest

    assert source.model is not None
    module = module_from_factory(source.model, seed=source.seed, weights=source.file)
    arch, answers = arch_from_factory(source.model, module, recipe.preprocess.input_size or IMAGENET.input_size)
    if source.file is None:
        # The factory's weights have no file; what they are belongs to what the network is.
        arch = arch.model_copy(update={"code": digest_from_json([arch.code, state_digest(module)])})
    return _opaque_network(recipe, arch, recipe.preprocess, f"model {source.model}", answers)


def _graph_network(recipe: Recipe, source: Source) -> Network:
    """An ONNX graph of another exporter: its ends say what it is."""
    from dnexport.graph.adopt import adopted

    assert source.file is not None
    found = adopted(source.file, recipe.preprocess.input_size)
    arch = GraphArch(file=source.file.name, channels=found.channels, classes=found.classes, counted=found.parameters)
    choice = recipe.preprocess
    if found.input_size is not None:
        choice = choice.model_copy(update={"input_size": found.input_size})
    return _opaque_network(recipe, arch, choice, f"graph {source.file}")


def _opaque_network(
    recipe: Recipe, arch: ModuleArch | GraphArch, choice: PreprocessChoice, what: str, answers: str | None = None
) -> Network:
    """A network whose ends are known and nothing else."""
    if recipe.classes not in (None, arch.classes):
        raise ArchError(f"{what} has {arch.classes} classes, not {recipe.classes}", "drop --classes")
    preprocess, assumed = _preprocess(choice, None, arch)
    return Network(
        arch=arch,
        arch_name=None,
        preprocess=preprocess,
        assumed=assumed,
        class_names=_class_names(recipe, (), arch),
        answers=answers,
    )


def reference_factory(manifest: Manifest) -> ModuleFactory | None:
    """Makes the bundle's PyTorch module; None where PyTorch, those very weights or that very code are not here."""
    if importlib.util.find_spec("torch") is None:
        return None
    network = Network(
        arch=manifest.arch,
        arch_name=manifest.arch_name,
        preprocess=manifest.preprocess,
        assumed=manifest.assumed,
        class_names=manifest.class_names,
    )
    recipe = manifest.recipe
    if recipe.onnx is not None:
        return None
    word, _, seed = recipe.weights.partition(":")
    if manifest.weights.file is None:
        source = Source(manifest.weights.source, seed=int(seed or 0) if word == "random" else 0, model=recipe.model)
    else:
        source = Source(manifest.weights.source, Path(recipe.weights), model=recipe.model, new_head=recipe.new_head)
    if source.file is not None and not source.file.is_file():
        return None
    if recipe.model is not None:
        try:
            here = _foreign_network(recipe, source)
        except (ArchError, CheckpointError):
            return None
        same = source.file is None or source.digest() == manifest.weights.digest
        return here.factory(source) if same and here.arch == manifest.arch else None
    return network.factory(source) if network.weights(source).digest == manifest.weights.digest else None


def default_preprocess(arch: AnyArch) -> Preprocess:
    """Where nothing else is known: what the authors' evaluation does, in grey where there is one channel."""
    if arch.channels != 1:
        return arch.preprocess
    return arch.preprocess.model_copy(update={"channels": "grey", "mean": (0.5,), "std": (0.5,)})


def _preprocess(
    choice: PreprocessChoice, stated: Preprocess | None, arch: AnyArch
) -> tuple[Preprocess, tuple[str, ...]]:
    """Flags, else the checkpoint, else torchvision's defaults; and which fields the last of these gave."""
    default = default_preprocess(arch)
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
