import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnexport.errors import RecipeError
from dnexport.spec.precision import Precision
from dnexport.spec.quantization import CalibrationSet
from dnexport.spec.recipe import (
    Bench,
    PreprocessChoice,
    Recipe,
    recipe_from_toml,
    recipe_from_values,
    toml_from_recipe,
    tomllib,
)

recipes = st.builds(
    Recipe,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    arch=st.just("densenet121"),
    weights=st.sampled_from(["auto", "random", "random:7", "some/file.pth"]),
    precision=st.sampled_from(Precision),
    targets=st.lists(st.sampled_from(["auto", "tensorrt", "openvino:cpu"]), min_size=1, unique=True).map(tuple),
    batch=st.sampled_from(["1..1..8", "4", "2..4..16"]),
    bench=st.builds(Bench, block_s=st.sampled_from([0.2, 1.5]), queries=st.sampled_from([None, 10**6])),
    preprocess=st.builds(PreprocessChoice, mean=st.sampled_from([None, (0.5, 0.25, 1e-5)])),
    calibration=st.builds(CalibrationSet, data=st.sampled_from([None, '/a "b"\\\n\u00e9'])),
)


@given(recipes)
def test_a_stored_recipe_reads_back_equal(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@given(recipes)
def test_a_recipe_as_toml_says_the_same(recipe: Recipe) -> None:
    assert recipe_from_values(tomllib.loads(toml_from_recipe(recipe)), "test") == recipe


def test_a_measurement_as_flags_says_the_same() -> None:
    assert Bench().flags(Bench()) == ()
    bench = Bench(
        restarts=2, block_s=0.5, threads=1, duration_s=3, scenarios=("offline",), cuda_graph=False, compile=True
    )
    said = "--restarts 2 --block 0.5 --threads 1 --duration 3.0 --scenario offline --no-cuda-graph --compile"
    assert bench.flags(Bench()) == tuple(said.split())
    assert Bench().flags(Bench(restarts=2, compile=True)) == ("--restarts", "5", "--no-compile")


@pytest.mark.parametrize(("require", "queries"), [((), None), (("p90<=5ms", "snr>=30dB"), 44), (("p90<=5ms", "p99<=9ms"), 459)])  # fmt: skip
def test_a_required_percentile_is_measured_well_enough(require: tuple[str, ...], queries: int | None) -> None:
    recipe = Recipe(name="r", arch="densenet121", require=require)
    assert recipe.measured.queries == queries
    said = recipe.model_copy(update={"bench": Bench(queries=9)})
    assert said.measured.queries == 9


RECIPES = sorted(path for path in (Path(__file__).parents[2] / "engines").glob("*.toml") if path.name != "fleets.toml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_committed_recipes_are_valid(path: Path) -> None:
    assert recipe_from_values(recipe_from_toml(path), str(path)).name == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('arch = "densenet121"\nprecison = "fp16"', "unknown key 'precison'; did you mean precision?"),
        ('arch = "densenet121"\n[preprocess]\nmeen = [0.5]', "unknown key 'preprocess.meen'; did you mean preprocess.mean"),
        ('arch = "densenet121"\nprecision = "fp8"', "key 'precision' is 'fp8'; input should be 'fp32', 'fp16' or 'int8'"),
        ('arch = "densenet121"\nbatch = "8..1"', "key 'batch' is '8..1'; batch '8..1' is not of the form"),
        ('arch = "densenet121"\ntargets = ["opnvino"]', "unknown target 'opnvino'"),
        ('arch = "densenet121"\n[calibration]\ncount = 0', "key 'calibration.count' is 0"),
        ('arch = "densenet121"\nbatch = "1..1..8"\n[bench]\nbatch = 16', "bench.batch 16 lies outside of the profile 1..1..8"),
        ('precision = "fp16"', "an arch is needed where the weights are not a file"),
        ("arch = ", "is not TOML"),
        ('weights = ""', "key 'weights' is ''; a path or a word belongs here"),
        ('weights = "w"\ndata = "a\\u0000b"', "a path or a word belongs here"),
        ('arch = "densenet121"\n[calibration]\nseed = -1', "key 'calibration.seed' is -1"),
        ('arch = "densenet121"\n[bench]\nblock_s = inf', "key 'bench.block_s' is inf"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)  # fmt: skip
def test_refuses_a_recipe_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        recipe_from_values(recipe_from_toml(path), str(path))
    assert str(path) in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        recipe_from_toml(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "images.toml").write_text('data = "photos"\ncount = 9\n')
    path = tmp_path / "recipe.toml"
    path.write_text('weights = "w.pth"\ndata = "digits"\ncalibration = "images.toml"\n')
    recipe = recipe_from_values(recipe_from_toml(path), str(path))
    assert recipe.weights == str(tmp_path / "w.pth")
    assert recipe.data == "digits"
    assert recipe.calibration.data == str(tmp_path / "photos")
    assert recipe.calibration.count == 9


def test_latency_is_measured_at_a_batch_that_the_engine_takes() -> None:
    recipe = Recipe(name="r", arch="densenet121", batch="4..4..8")
    assert (recipe.bench.batch, recipe.measured.batch) == (1, 4)
    assert Recipe(name="r", arch="densenet121").measured == Recipe(name="r", arch="densenet121").bench
