"""Every layout under its own names, written from a reference network, loads to bit-equal weights."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dnexport.errors import CheckpointError
from dnexport.models.layouts import LAYOUTS
from dnexport.models.zoo import module_from_arch, module_from_file, module_from_seed, recognised_from_file
from dnexport.spec.archs import NAMED, AnyArch, DenseNetArch
from tests.models.test_checkpoint import dotted
from tests.models.test_family import condensed
from tests.networks import FAMILY

State = dict[str, Tensor]
DENSENET = DenseNetArch(blocks=(2, 3, 2), k=8, init=16, classes=14)
# Strides leave no trace in the weights; three blocks and fewer are read as the CIFAR form.
CONDENSED = FAMILY["condensenet"].model_copy(update={"stem": "cifar"})
CONDENSING = FAMILY["condensenet training"].model_copy(update={"stem": "cifar"})
GREY = DENSENET.model_copy(update={"channels": 1, "classes": 18})


def rename(state: State, *pairs: tuple[str, str]) -> State:
    def name(key: str) -> str:
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        return key

    return {name(key): value for key, value in state.items()}


def less_one(key: str) -> str:
    return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) - 1), key)


def mmpretrain(state: State) -> State:
    names = rename(
        state, (r"^features\.conv0\.", "backbone.stem.0."), (r"^features\.norm0\.", "backbone.stem.1."),
        (r"^features\.denseblock(\d+)\.denselayer(\d+)\.", r"backbone.stages.<\1>.block.<\2>."),
        (r"^features\.transition(\d+)\.", r"backbone.transitions.<\1>."), (r"^features\.norm5\.", "backbone.transitions.2.0."),
        (r"^classifier\.", "head.fc."),
    )  # fmt: skip
    return {less_one(key): value for key, value in names.items()}


WRITERS: dict[str, tuple[AnyArch, Callable[[State], object]]] = {
    "torchvision, timm": (DENSENET, lambda s: s),
    "torchvision of 2017": (DENSENET, lambda s: {dotted(k): v for k, v in s.items() if "num_batches" not in k}),
    "efficient_densenet_pytorch": (DENSENET, lambda s: {"state_dict": rename(s, (r"norm5", "norm_final"))}),
    "MONAI": (DENSENET, lambda s: rename(s, (r"(denselayer\d+)\.", r"\1.layers."), (r"^classifier", "class_layers.out"))),
    "mmpretrain": (DENSENET, lambda s: {"state_dict": mmpretrain(s), "meta": {"epoch": 90}}),
    "Cadene pretrainedmodels": (DENSENET, lambda s: rename(s, (r"^classifier", "last_linear"))),
    "CheXNet (arnoweng, zoogzog)": (
        DENSENET,
        lambda s: {"state_dict": {f"module.densenet121.{dotted(k)}": v for k, v in rename(s, (r"^classifier", "classifier.0")).items()}},
    ),
    "torchxrayvision": (GREY, lambda s: {**s, "op_threshs": torch.full((18,), 0.5)}),
    "CondenseNet, converted": (CONDENSED, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}),
    "CondenseNet, training": (CONDENSING, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}),
    "PeleeNet": (FAMILY["peleenet"], lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}),
    "timm DPN": (FAMILY["dpn"], lambda s: s),
}  # fmt: skip


def reference(arch: AnyArch) -> torch.nn.Module:
    if arch == CONDENSING:
        return condensed(arch)
    return module_from_seed(arch, (32, 32), 5)


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_every_layout_is_tested() -> None:
    assert set(WRITERS) == {layout.name for layout in LAYOUTS}


@pytest.mark.parametrize("name", WRITERS)
def test_a_layout_loads_to_bit_equal_weights(name: str, tmp_path: Path) -> None:
    arch, write = WRITERS[name]
    module = reference(arch)
    path = save(write(module.state_dict()), tmp_path / "weights.pth.tar")
    found = recognised_from_file(path)
    assert found.layout == name
    assert found.arch == arch
    assert found.multi_label == (name.startswith("CheXNet") or name == "torchxrayvision")
    loaded = found.module.state_dict()
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(loaded[key], value), key


def test_a_condensenet_in_training_form_is_deployed_converted(tmp_path: Path) -> None:
    module = condensed(CONDENSING)
    path = save(module.state_dict(), tmp_path / "w.pt")
    found = recognised_from_file(path).deployed()
    # Every feature reaches the classifier: none of its inputs may be dropped.
    assert found.arch == CONDENSING.model_copy(update={"form": "converted", "head": "all"})
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        for deployed in (found.module, module_from_file(path, found.arch)):
            torch.testing.assert_close(deployed(x), module(x), rtol=1e-4, atol=1e-5)
    again = recognised_from_file(save(found.module.state_dict(), tmp_path / "converted.pt"))
    assert again.arch == found.arch
    assert again.layout == "CondenseNet, converted"
    torch.save(module_from_arch(CONDENSING).state_dict(), path)
    with pytest.raises(
        CheckpointError,
        match=r"cannot be deployed: a group keeps \d+ of its inputs, not \d+: condensing is not over; train it on",
    ):
        recognised_from_file(path).deployed()


def test_a_head_is_replaced_only_on_purpose(tmp_path: Path) -> None:
    for arch in (DENSENET, CONDENSED, FAMILY["peleenet"], FAMILY["dpn"]):
        state = reference(arch).state_dict()
        path = save(state, tmp_path / "w.pt")
        found = recognised_from_file(path, new_head=3)
        assert found.arch == arch.model_copy(update={"classes": 3})
        assert found.aside == tuple(f"{k}: replaced by a new head" for k in state if k.startswith("classifier."))
        loaded = found.module.state_dict()
        kept = {k: v for k, v in state.items() if not k.startswith("classifier.") and "num_batches" not in k}
        assert all(torch.equal(loaded[k], v) for k, v in kept.items())
        again = module_from_file(path, found.arch, new_head=True).state_dict()
        assert all(torch.equal(again[k], v) for k, v in loaded.items())
        assert recognised_from_file(path).arch == arch


@pytest.mark.parametrize("name", [n for n, named in NAMED.items() if named.arch.parameters < 15e6])
def test_a_named_arch_is_read_off_its_shapes(name: str, tmp_path: Path) -> None:
    arch = NAMED[name].arch
    assert recognised_from_file(save(module_from_arch(arch).state_dict(), tmp_path / "w.pt")).arch == arch


def test_what_is_set_aside_is_said(tmp_path: Path) -> None:
    arch, write = WRITERS["torchxrayvision"]
    found = recognised_from_file(save(write(reference(arch).state_dict()), tmp_path / "w.pt"))
    assert found.aside == ("op_threshs: the operating points that torchxrayvision scales its sigmoid outputs by",)


def test_a_condensenet_converted_in_part_is_refused(tmp_path: Path) -> None:
    states = [reference(arch).state_dict() for arch in (CONDENSED, CONDENSING)]
    first = {k: v for k, v in states[0].items() if "denseblock_1" in k}
    mixed = {**{k: v for k, v in states[1].items() if "denseblock_1" not in k}, **first}
    with pytest.raises(CheckpointError, match="is a CondenseNet converted in part: it has both masks and indices"):
        recognised_from_file(save(mixed, tmp_path / "w.pt"))


@pytest.mark.parametrize(("value", "dtype"), [(10**9, torch.int64), (-3, torch.int64), (0.7, torch.float32)])
@pytest.mark.parametrize("key", ["features.denseblock_1.denselayer_1.conv_1.index", "classifier.index"])
def test_an_index_that_is_no_channel_is_refused(key: str, value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    state = reference(CONDENSED).state_dict()
    state[key] = torch.full_like(state[key], value, dtype=dtype)
    with pytest.raises(
        CheckpointError,
        match=r"index (that are no channels|of type torch.float32, not torch.int64)|values in .*index that are no channels",
    ):
        recognised_from_file(save(state, tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["MONAI", "mmpretrain", "PeleeNet", "timm DPN", "CondenseNet, converted"])
def test_a_layout_is_strict_both_ways(name: str, tmp_path: Path) -> None:
    arch, write = WRITERS[name]
    state = write(reference(arch).state_dict())
    state = state.get("state_dict", state)
    norm = next(key for key in state if key.endswith("running_var"))
    without = {key: value for key, value in state.items() if key != norm}
    with pytest.raises(CheckpointError, match=r"lacks .*running_var"):
        recognised_from_file(save(without, tmp_path / "less.pt"))
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    more = {**state, f"{prefix}aux_head.weight": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"has aux_head\.weight that the arch does not"):
        recognised_from_file(save(more, tmp_path / "more.pt"))


def test_the_users_word_goes_before_what_shapes_do_not_show(tmp_path: Path) -> None:
    path = save(reference(CONDENSED).state_dict(), tmp_path / "w.pt")
    assert recognised_from_file(path).arch.stem == "cifar"
    assert recognised_from_file(path).assumed == ("stem",)
    assert recognised_from_file(path, FAMILY["condensenet"]).assumed == ()
    assert recognised_from_file(path, FAMILY["condensenet"]).arch == FAMILY["condensenet"]


@pytest.mark.parametrize("arch", ["densenet121", "peleenet"])
def test_another_family_than_named_shows_the_difference(arch: str, tmp_path: Path) -> None:
    path = save(reference(FAMILY["dpn"]).state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"lacks .* and has .* that the arch does not"):
        recognised_from_file(path, NAMED[arch].arch)


def test_inspect_says_what_it_is(tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    arch, write = WRITERS["CheXNet (arnoweng, zoogzog)"]
    path = save(write(reference(arch).state_dict()), tmp_path / "chexnet.pth.tar")
    done = run_cli("inspect", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not a published one: densenet(classes=14,blocks=2-3-2,k=8,init=16)" in done.stdout
    assert "classes 14, multi-label (a sigmoid each)" in done.stdout
    assert f"{arch.parameters:,}, all filled; every key used" in done.stdout
    assert (
        "assumed     input_size, resize, interpolation, channels, mean, std: not stated by the checkpoint"
        in done.stdout
    )
    document = json.loads(run_cli("inspect", str(path), "--json", cwd=tmp_path).stdout)
    assert (document["arch"], document["multi_label"]) == (str(arch), True)
    (tmp_path / "text.pth").write_text("hello")
    done = run_cli("inspect", str(tmp_path / "text.pth"), cwd=tmp_path)
    assert done.returncode == 3
    assert "is truncated or no PyTorch file" in done.stderr
