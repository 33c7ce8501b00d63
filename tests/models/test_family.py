"""What every family promises: arithmetic, keys, an export that is the network, engines that are the export."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn

from dnexport.calibrate.calibrate import table_from_images
from dnexport.calibrate.quantize import prepare, quantize, rounded_from_images
from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.deploy.engine import Engine
from dnexport.deploy.validate import Samples, validate_engine
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.passes_for import canonical_passes, passes_for
from dnexport.models.condensenet import CondenseNet, LearnedGroupConv, converted
from dnexport.models.export import compare_graphs, reference_logits
from dnexport.models.zoo import module_from_arch, module_from_seed
from dnexport.runtimes.contract import BuildOptions
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.archs import NAMED, AnyArch, CondenseNetArch
from dnexport.spec.precision import Precision
from dnexport.spec.profile import Profile
from dnexport.spec.progress import Silent
from dnexport.spec.quantization import CalibrationSet, Placement, Quantization
from dnexport.spec.target import Target
from tests.needs import LOCAL, lacking
from tests.networks import FAMILY, check_arithmetic
from tests.networks import FAMILY_PREPROCESS as PREPROCESS

BUILT = {**FAMILY, **{name: named.arch for name, named in NAMED.items() if named.arch.parameters < 3e6}}


@pytest.mark.parametrize("name", BUILT)
def test_arithmetic_counts_what_is_built(name: str) -> None:
    check_arithmetic(BUILT[name], BUILT[name].input_size, BUILT[name].input_size)


@pytest.mark.parametrize("name", FAMILY)
def test_odd_and_smallest_inputs(name: str) -> None:
    arch = FAMILY[name]
    check_arithmetic(arch, 44 if "pelee" in name else 45, 36 if "pelee" in name else 37)
    check_arithmetic(arch, arch.smallest_input, arch.smallest_input)


def test_peleenet_refuses_sizes_that_its_stem_cannot_concatenate() -> None:
    arch = FAMILY["peleenet"]
    assert "even number of pixels" in arch.refusal(45, 44)
    assert arch.refusal(44, 44) is None
    assert "at least 7 pixels" in arch.refusal(4, 4)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        module_from_arch(arch).eval()(torch.zeros(1, 3, 45, 45))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("condensenet", ["features.init_conv.weight", "features.denseblock_1.denselayer_1.conv_1.index", "features.denseblock_2.denselayer_2.conv_2.norm.running_var", "classifier.linear.bias", "classifier.index"]),
        ("condensenet training", ["features.denseblock_1.denselayer_1.conv_1._mask", "features.denseblock_1.denselayer_1.conv_1.conv.weight", "features.norm_last.weight", "classifier.weight"]),
        ("peleenet", ["features.stemblock.stem2b.conv.weight", "features.denseblock2.denselayer1.branch2c.norm.bias", "features.transition2.norm.weight", "classifier.weight"]),
        ("dpn", ["features.conv1_1.bn.weight", "features.conv2_1.c1x1_w_s1.conv.weight", "features.conv3_1.c1x1_w_s2.bn.bias", "features.conv4_1.c3x3_b.conv.weight", "features.conv5_bn_ac.bn.weight", "classifier.bias"]),
        ("dpn b", ["features.conv2_1.c1x1_c.bn.weight", "features.conv2_1.c1x1_c1.weight", "features.conv2_1.c1x1_c2.weight"]),
    ],
)  # fmt: skip
def test_keys_are_those_of_the_authors(name: str, keys: list[str]) -> None:
    assert set(keys) <= set(module_from_arch(FAMILY[name]).state_dict())


@pytest.fixture(scope="module")
def graphs(
    tmp_path_factory: pytest.TempPathFactory, family_graph: Callable[[AnyArch], Path]
) -> dict[str, tuple[Path, nn.Module]]:
    """Each small network, exported and canonical."""
    folder, images, found = tmp_path_factory.mktemp("family"), batch(4), {}
    for name, arch in FAMILY.items():
        raw, path = family_graph(arch), folder / f"{name}.onnx"
        model = model_from_path(raw)
        apply(canonical_passes(), model)
        save_model(model, path)
        compare_graphs(raw, path, images)
        found[name] = (path, module_from_seed(arch, PREPROCESS.input_size, 0))
    return found


def quantized(path: Path, placement: Placement, prepared: Path) -> ir.Model:
    seen, how = synthetic(32, PREPROCESS, 2), Quantization(placement=placement)
    known = table_from_images(path, seen, PREPROCESS, CalibrationSet(), Silent())
    ready = prepare(path, known, how, PREPROCESS, prepared)
    rounded = rounded_from_images(ready.graph, ready.table, how, seen, PREPROCESS, Silent())
    model = model_from_path(ready.graph)
    quantize(model, ready.table, how, rounded)
    return model


def batch(count: int, seed: int = 0) -> torch.Tensor:
    return input_from_pixels(synthetic(count, PREPROCESS, seed).pixels(PREPROCESS), PREPROCESS)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("form", ["fp32", "fp16", "int8", "int8 state"])
@pytest.mark.parametrize("target", LOCAL)
@pytest.mark.instructions
def test_engines_are_the_network(name: str, form: str, target: str, graphs: dict, tmp_path: Path) -> None:
    path, module = graphs[name]
    model, precision = model_from_path(path), Precision(form.split()[0])
    if precision is Precision.INT8 and target == "openvino:cpu" and (reason := lacking("vnni")):
        pytest.skip(f"needs vnni: {reason}")
    if precision is Precision.INT8:
        model = quantized(path, "state" if "state" in form else "activation", tmp_path / "prepared.onnx")
        assert census_from_model(model).conv_macs_by_precision == {"int8": pytest.approx(1.0)}
    parsed = Target.parse(target)
    apply(passes_for(precision, parsed), model)
    save_model(model, tmp_path / "model.onnx")
    runtime_for(parsed).compile(tmp_path / "model.onnx", tmp_path, parsed, BuildOptions(Profile(), precision))
    images = batch(32, seed=3)
    samples = Samples(lambda _: [images], 32, reference_logits(module, images), torch.full((32,), -1).numpy(), 8)
    engine = Engine(parsed, tmp_path / "model.onnx", precision)
    found = validate_engine(engine, tmp_path / "model.onnx", samples, lambda *_: None)
    assert found.accuracy.snr_db is None or found.accuracy.snr_db > (10 if precision is Precision.INT8 else 20)


def condensed(arch: CondenseNetArch) -> CondenseNet:
    """A network whose condensing stages are over, with statistics that a shortcut would get wrong."""
    torch.manual_seed(1)
    module = CondenseNet(arch)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    for learned in (m for m in module.modules() if isinstance(m, LearnedGroupConv)):
        for _ in range(arch.condense - 1):
            learned.condense_once()
    return module.eval()


@pytest.mark.parametrize(("groups", "condense"), [(4, 4), (2, 4), (4, 2), (8, 8)])
def test_the_converted_condensenet_has_equal_logits(groups: int, condense: int) -> None:
    arch = CondenseNetArch(stages=(2, 2), growth=(8, 16), classes=6, groups=groups, condense=condense, form="training")
    trained = condensed(arch)
    # The classifier of the authors' deployed form reads half of the features: taken where the other half is zero.
    with torch.no_grad():
        trained.classifier.weight[:, ::2] = 0
    deployed = converted(trained)
    assert (deployed.arch.form, deployed.arch.head) == ("converted", "half")
    assert sum(p.numel() for p in deployed.parameters()) == deployed.arch.parameters
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), trained(x), rtol=1e-4, atol=1e-5)


def test_condensing_drops_the_weakest_inputs_group_by_group() -> None:
    learned = LearnedGroupConv(8, 8, CondenseNetArch(stages=(1,), growth=(8,), form="training"))
    with torch.no_grad():
        learned.conv.weight.copy_(torch.arange(1.0, 9)[None, :, None, None].expand(8, 8, 1, 1))
        learned.conv.weight[1::4] = learned.conv.weight[1::4].flip(1)  # group 1 prefers the first inputs
    for _ in range(3):
        learned.condense_once()
    assert [k.tolist() for k in learned.kept()] == [[6, 7], [0, 1], [6, 7], [6, 7]]
    assert learned._stage.item() == 3


def test_the_lasso_is_smaller_where_a_group_agrees() -> None:
    module = CondenseNet(FAMILY["condensenet training"])
    before = module.lasso()
    for learned in (m for m in module.modules() if isinstance(m, LearnedGroupConv)):
        learned.condense_once()
    assert 0 < module.lasso() < before
    assert CondenseNet(FAMILY["condensenet"]).lasso() == 0


def test_an_unfinished_condensenet_is_not_converted() -> None:
    with pytest.raises(ValueError, match=r"a group keeps \d+ of its inputs, not \d+: condensing is not over"):
        converted(CondenseNet(FAMILY["condensenet training"]))


def test_every_named_arch_prints_its_family() -> None:
    families: dict[str, AnyArch] = {str(named.arch).partition("(")[0]: named.arch for named in NAMED.values()}
    assert set(families) == {"densenet", "condensenet", "peleenet", "dpn"}
