"""A recipe determines a bundle: flags and a TOML file become one frozen record, stored resolved in the bundle.

A recipe file states only what differs from the defaults. Paths in it are relative to the file.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from dnexport.errors import DnexportError, RecipeError
from dnexport.spec.budget import METRICS, Budget, budgets_from_texts
from dnexport.spec.engine import EngineOptions
from dnexport.spec.fleets import expanded
from dnexport.spec.latency import Scenario
from dnexport.spec.precision import Precision
from dnexport.spec.preprocess import Channels, InputType, Interpolation
from dnexport.spec.profile import Profile
from dnexport.spec.quantization import CalibrationSet, Quantization
from dnexport.spec.record import Record, field_names, nearest, sentence_from_validation_error
from dnexport.spec.target import Target
from dnexport.spec.training import TRAINING_RECIPES, TrainingRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WEIGHT_WORDS = ("auto", "pretrained", "random")
DATA_WORDS = ("digits", "synthetic")
_PATHS = ("onnx", "weights", "data", "class_names", "calibration_table")
MULTI_STREAM_BATCH = 8  # MLPerf Inference, edge: samples of a MultiStream query
StandIn = Literal["bf16", "f32", "int8-saturating"]

AnyRecord = TypeVar("AnyRecord", bound=Record)


class PreprocessChoice(Record):
    """What the user says of the preprocessing; None leaves it to the checkpoint, then to the defaults.

    ``crop = false`` resizes straight to the input size; the other fields are those of `Preprocess`.
    """

    input_size: tuple[int, int] | None = None
    resize: int | None = None
    crop: bool | None = None
    interpolation: Interpolation | None = None
    channels: Channels | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Bench(Record):
    """How long latency is measured.

    Attributes:
        restarts: sets of processes, one after another; each loads the engines anew.
        rounds: alternations between the engines and the references in each set; each gives one ratio.
        block_s: least length of a block of queries, in seconds.
        batch: images a query.
        threads: of every session; all processors where it is None.
        queries: of each engine that are measured at the least.
        duration_s: of measuring, at the least, in seconds.
        scenarios: MLPerf's that are measured too: ``multi-stream`` (queries of eight images), ``offline`` (throughput
            over a sweep of batch sizes).
        cuda_graph: launch a query as one CUDA graph where the runtime has them.
        compile: let torch.compile compete as a PyTorch reference; compiling densenet121 takes two minutes on two cores.
    """

    restarts: int = Field(default=5, ge=1)
    rounds: int = Field(default=1, ge=1)
    block_s: float = Field(default=0.2, gt=0)
    batch: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    queries: int | None = Field(default=None, ge=1)
    duration_s: float | None = Field(default=None, gt=0)
    scenarios: tuple[Scenario, ...] = ()
    cuda_graph: bool = True
    compile: bool = False

    @property
    def protocol(self) -> "Bench":
        """What must be equal for two measurements to compare, whatever else was measured, and however often."""
        return self.model_copy(update={"restarts": 1, "queries": None, "duration_s": None, "scenarios": ()})

    def enough_for(self, budgets: Sequence[Budget]) -> "Bench":
        """With as many queries as bound the percentiles that are required, where their number was not said."""
        needed = max((METRICS[budget.metric].queries for budget in budgets), default=0)
        return self.model_copy(update={"queries": self.queries or needed or None})

    def flags(self, base: "Bench") -> tuple[str, ...]:
        """Of ``dnexport bench``, for what is not as the bundle's recipe has it.

        Args:
            base: of that recipe.
        """
        names = {"block_s": "block", "duration_s": "duration", "cuda_graph": "cuda-graph"}
        before = base.model_dump()
        words: list[str] = []
        for key, value in self.model_dump().items():
            name = names.get(key, key)
            if value == before[key]:
                continue
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            elif key == "scenarios":
                words += [word for scenario in value for word in ("--scenario", scenario)]
            else:
                words += [f"--{name}", str(value)]
        return tuple(words)


class Recipe(Record):
    """Everything that determines a bundle.

    Attributes:
        name: of the bundle; its directory's name.
        arch: a named architecture; None takes the checkpoint's.
        model: ``package.module:callable`` that makes a ``torch.nn.Module`` of the user's own, instead of an arch.
        onnx: a float ONNX graph that another exporter wrote, instead of an arch and weights.
        weights: a file, ``pretrained``, ``random[:seed]`` or ``auto``.
        classes: of the network; other than the checkpoint's only with a new head.
        new_head: replace the checkpoint's classifier by a fresh one for ``classes``.
        class_names: a text file, one name a line.
        data: ``digits`` or a folder (class folders, or ``train`` and ``val`` or ``test`` with class folders).
        precision: what the engines are asked to run in.
        targets: where they run.
        allow_execution: what a CPU target that is named may execute in place of fp16; for int8, the float type around
            it (``bf16``), the one that simulates it (``f32``), or int8 that saturates (``int8-saturating``).
        batch: profile as ``min..opt..max``.
        input: what the engines are fed: normalised ``float32`` images, or ``uint8`` pixels as they are.
        preprocess: what the checkpoint does not say.
        calibration: the images that calibrate INT8.
        calibration_table: a table made before by ``dnexport calibrate``, instead of calibrating.
        quantization: what INT8 does beyond ranges.
        engine: what TensorRT's builder is told.
        bench: how latency is measured.
        require: budgets, such as ``top1-drop<=0.5``; in TOML a list of them, or a table: ``p99 = "<=5ms"``.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    arch: str | None = None
    model: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    onnx: str | None = None
    weights: str = "auto"
    classes: int | None = Field(default=None, ge=1)
    new_head: bool = False
    class_names: str | None = None
    data: str | None = None
    precision: Precision = Precision.FP16
    targets: tuple[str, ...] = ("auto",)
    allow_execution: tuple[StandIn, ...] = ()
    batch: str = str(Profile())
    input: InputType = "float32"
    preprocess: PreprocessChoice = PreprocessChoice()
    calibration: CalibrationSet = CalibrationSet()
    calibration_table: str | None = None
    quantization: Quantization = Quantization()
    engine: EngineOptions = EngineOptions()
    bench: Bench = Bench()
    require: tuple[str, ...] = ()

    @field_validator("allow_execution", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value if value is not None else ()

    @field_validator("batch")
    @classmethod
    def _batch_parses(cls, text: str) -> str:
        return str(_value_of(lambda: Profile.parse(text)))

    @field_validator("require", mode="before")
    @classmethod
    def _a_table_is_a_list_too(cls, value: Any) -> Any:
        return tuple(f"{name}{rest}" for name, rest in value.items()) if isinstance(value, dict) else value

    @field_validator("require")
    @classmethod
    def _budgets_parse(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(budget) for budget in _value_of(lambda: budgets_from_texts(texts)))

    @field_validator("targets")
    @classmethod
    def _targets_parse(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not texts:
            raise ValueError("at least one target is named")
        parsed = [text if text == "auto" else str(_value_of(lambda text=text: Target.parse(text))) for text in texts]
        return tuple(dict.fromkeys(parsed))

    @field_validator(*_PATHS)
    @classmethod
    def _is_a_path(cls, text: str | None) -> str | None:
        if text is not None and (not text.strip() or "\0" in text):
            raise ValueError("a path or a word belongs here")
        return text

    @model_validator(mode="after")
    def _something_to_build(self) -> "Recipe":
        if self.onnx is not None and (self.arch or self.model or self.new_head or self.weights != "auto"):
            raise ValueError("an ONNX graph has its own arch, weights and head; drop --onnx or the others")
        if self.model is not None and (self.arch is not None or self.new_head or self.weights == "pretrained"):
            raise ValueError("a model has no arch, no new head and no pretrained weights; drop one of them")
        if self.new_head and self.classes is None:
            raise ValueError("a new head needs a number of classes; add --classes")
        if (
            self.arch is None
            and self.model is None
            and self.onnx is None
            and self.weights.partition(":")[0] in WEIGHT_WORDS
        ):
            raise ValueError(
                "an arch is needed where the weights are not a file; name one with --arch, or --weights FILE"
            )
        chosen = self.quantization
        if self.precision is not Precision.INT8 and (chosen.has_budget or chosen.plan is not None):
            raise ValueError(f"a budget or a plan is for int8, not for {self.precision.value}; add --int8")
        if "multi-stream" in self.bench.scenarios and not self.profile.holds(MULTI_STREAM_BATCH):
            raise ValueError(
                f"the multi-stream scenario asks for {MULTI_STREAM_BATCH} images a query, outside of the profile"
                f" {self.profile}; raise --batch"
            )
        if self.bench.batch > self.profile.max_batch:
            raise ValueError(
                f"bench.batch {self.bench.batch} lies outside of the profile {self.profile}; raise --batch"
            )
        return self

    @property
    def measured(self) -> Bench:
        """How latency is measured: at the profile's smallest batch where less was said, enough for the budgets."""
        bench = self.bench.model_copy(update={"batch": self.profile.within(self.bench.batch)})
        return bench.enough_for(self.budgets)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What is required, as records."""
        return budgets_from_texts(self.require)

    @property
    def profile(self) -> Profile:
        """The batch sizes as a record."""
        return Profile.parse(self.batch)


def recipe_from_toml(path: Path) -> dict[str, Any]:
    """Read a recipe file into plain values, paths resolved and an external calibration set read in.

    Raises:
        RecipeError: unreadable, not TOML, or a calibration file that is either.
    """
    values = with_absolute_paths(_read_toml(path), path.parent)
    if isinstance(calibration := values.get("calibration"), str):
        found = calibration_set_from_toml(path.parent / calibration)
        values["calibration"] = found.model_dump(exclude_unset=True)
    values.setdefault("name", path.stem)
    return values


def calibration_set_from_toml(path: Path) -> CalibrationSet:
    """Read a calibration-set recipe.

    Raises:
        RecipeError: unreadable, not TOML, or not a calibration set.
    """
    values = _read_toml(path)
    if "data" in values:
        values["data"] = _absolute(values["data"], path.parent)
    return _validated(CalibrationSet, values, str(path))


def recipe_from_values(values: dict[str, Any], origin: str) -> Recipe:
    """Validate plain values into a recipe; a fleet among its targets becomes what it stands for.

    Raises:
        UsageError: there is no such fleet.
        RecipeError: the first problem, with its key and ``origin``.
    """
    targets = values.get("targets")
    if isinstance(targets, list | tuple) and all(isinstance(text, str) for text in targets):
        values = {**values, "targets": expanded(targets, Path())}
    return _validated(Recipe, values, origin)


def toml_from_recipe(recipe: Recipe) -> str:
    """What a recipe says beyond the defaults, as a file that says the same."""
    return "\n".join(_toml_lines(recipe.model_dump(mode="json", exclude_defaults=True, exclude_none=True), ""))


def _toml_lines(values: dict[str, Any], table: str) -> list[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, dict) and value}
    # JSON's strings, numbers, booleans and lists of them are TOML's too; all that a recipe holds are those.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if key not in tables]
    head = [f"[{table}]"] if table and lines else []
    below = (_toml_lines(value, f"{table}.{key}" if table else key) for key, value in tables.items())
    return [*head, *lines, *(line for each in below for line in each)]


def _validated(record: type[AnyRecord], values: dict[str, Any], origin: str) -> AnyRecord:
    try:
        return record.model_validate(values)
    except ValidationError as exc:
        what, remedy = sentence_from_validation_error(exc, field_names(record))
        raise RecipeError(f"{origin}: {what}", remedy) from exc


def _read_toml(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise RecipeError(f"recipe {path} is no file", "give a TOML file; engines/ holds examples")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return values
    except FileNotFoundError as exc:
        raise RecipeError(f"recipe {path} does not exist", "check the path; engines/ holds examples") from exc
    except OSError as exc:
        raise RecipeError(
            f"recipe {path} cannot be read: {(exc.strerror or str(exc)).lower()}", "check the path"
        ) from exc
    except (ValueError, RecursionError) as exc:  # TOML's and Unicode's errors, and what deep nesting does
        raise RecipeError(f"recipe {path} is not TOML: {exc}", "correct that line") from exc


def with_absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A recipe's values, all paths absolute that are relative to ``folder``; words such as ``digits`` stay words."""
    found = {key: _absolute(value, folder) if key in _PATHS else value for key, value in values.items()}
    for table, key in (("calibration", "data"), ("quantization", "plan")):
        inner = found.get(table)
        if isinstance(inner, dict) and key in inner:
            found[table] = {**inner, key: _absolute(inner[key], folder)}
    return found


def _absolute(value: Any, folder: Path) -> Any:
    if (
        not isinstance(value, str)
        or not value.strip()
        or "\0" in value
        or value.partition(":")[0] in (*WEIGHT_WORDS, *DATA_WORDS)
    ):
        return value
    return os.path.abspath(folder / value)  # a link keeps its name, which may name the bundle


def _value_of(parse: Any) -> Any:
    """Run a parser inside of a validator, where pydantic wants ValueError."""
    try:
        return parse()
    except DnexportError as exc:
        raise ValueError(str(exc)) from exc


def training_recipe(name: str, **said: Any) -> TrainingRecipe:
    """A named training recipe with what was said otherwise; None says nothing.

    Raises:
        RecipeError: no such recipe, or values that do not go together.
    """
    if name not in TRAINING_RECIPES:
        raise RecipeError(f"there is no training recipe '{name}'", nearest(name, TRAINING_RECIPES))
    values = TRAINING_RECIPES[name].model_dump() | {key: value for key, value in said.items() if value is not None}
    return _validated(TrainingRecipe, values, f"training recipe {name}")
