import json
import os
import pickle
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dnexport.errors import CheckpointError
from dnexport.models.checkpoint import METADATA_KEY, state_from_file
from dnexport.models.densenet import DenseNet
from dnexport.models.zoo import module_from_file, module_from_seed, recognised_from_file
from dnexport.spec.archs import NAMED, named_arch
from tests.networks import TINY

NAME = "densenet-bc-40-12"
ARCH = named_arch(NAME).arch


class Worse:
    """Its pickle starts a program when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("echo code ran",)


class Hostile:
    """Its pickle calls a function when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("code ran",)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return module_from_seed(NAMED[NAME].arch, (32, 32), 0).state_dict()


def equal(module: torch.nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items() if "num_batches" not in key)


def dotted(key: str) -> str:
    """torchvision's names of 2017: denselayer1.norm.1.weight."""
    return re.sub(r"(norm|conv)([12])(?=[.])", r"\1.\2", key)


@pytest.mark.parametrize(
    "dressed",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module.{dotted(k)}": v for k, v in s.items() if "num_batches" not in k},
    ],
    ids=["plain", "wrapped", "data-parallel", "2017"],
)
def test_layouts_load_to_equal_weights(
    tmp_path: Path, state: dict[str, Tensor], dressed: Callable[..., object]
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(dressed(state), path)
    found = recognised_from_file(path, ARCH)
    assert found.metadata is None
    assert equal(module_from_file(path, found.arch), state)


def test_classes_and_channels_are_the_checkpoints(tmp_path: Path) -> None:
    arch = named_arch(NAME).arch.model_copy(update={"classes": 14, "channels": 1})
    torch.save(module_from_seed(arch, (32, 32), 0).state_dict(), tmp_path / "w.pth")
    assert recognised_from_file(tmp_path / "w.pth", ARCH).arch == arch


def without(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda s: {k: v for k, v in s.items() if k != key}


def with_value(key: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda s: {**s, key: change(s[key])}


CONV = "features.denseblock1.denselayer1.conv1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_value("features.norm5.running_var", lambda v: v - 100),
            "has 132 values in features.norm5.running_var that are negative variances",
        ),
        (
            with_value("features.norm5.weight", lambda v: v.double() * 1e300),
            "has 132 values in features.norm5.weight that are not finite",
        ),
        (lambda s: {**s, "features.denseblock1.denselayer999999999.x": s[CONV]}, "numbers a layer 999999999 and has"),
        (
            with_value(CONV, lambda w: w.to_sparse()),
            f"has {CONV} as a torch.sparse_coo tensor on cpu; save plain tensors",
        ),
        (lambda s: {**s, 7: s[CONV]}, "has the key 7, which is no name"),
        (without(CONV), f"lacks {CONV}; give a whole state dict"),
        (without("features.transition1.norm.bias"), "lacks features.transition1.norm.bias; name the --arch"),
        (lambda s: {**s, "extra.weight": s[CONV]}, "has extra.weight that the arch does not; name the --arch"),
        (with_value(CONV, lambda w: w[:, :5]), f"has {CONV} of [48, 5, 1, 1], the arch wants [48, 24, 1, 1]"),
        (
            with_value("features.conv0.weight", lambda w: w[..., None]),
            "is of a 3-D network: features.conv0.weight is [24, 3, 3, 3, 1]",
        ),
        (
            with_value("features.conv0.weight", lambda w: w[..., 0]),
            "is of a 1-D network: features.conv0.weight is [24, 3, 3]",
        ),
        (with_value("classifier.weight", lambda w: w[0]), "has classifier.weight of [132] where 2 dimensions belong"),
        (
            lambda s: {f"resnet.{k}": v for k, v in s.items()},
            "has keys of no layout known here (resnet.classifier.bias, ",
        ),
        (with_value(CONV, lambda w: w * float("nan")), f"has 1152 values in {CONV} that are not finite"),
        (with_value(CONV, lambda w: w.to(torch.int8)), f"has {CONV} of type torch.int8, not torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_difference(
    tmp_path: Path, state: dict[str, Tensor], change: Callable[..., dict[str, Tensor]], message: str
) -> None:
    torch.save(change(state), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        recognised_from_file(tmp_path / "w.pth", ARCH)


def test_a_checkpoint_of_another_arch_shows_keys(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"lacks features\.denseblock1\.denselayer10.*more keys"):
        recognised_from_file(tmp_path / "w.pth", named_arch("densenet-bc-100-12").arch)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "hostile.pth").open("wb") as file:
        pickle.dump({"state_dict": Hostile()}, file)
    torch.save({"state_dict": Hostile()}, tmp_path / "hostile2.pth")
    torch.save({"state_dict": Worse()}, tmp_path / "worse.pth")
    for name in ("hostile.pth", "hostile2.pth", "worse.pth"):
        with pytest.raises(
            CheckpointError, match=r"is a pickle that would run code when loaded, and is refused; save its state_dict"
        ):
            state_from_file(tmp_path / name)
    assert "code ran" not in capfd.readouterr().out


def test_torchxrayvisions_whole_module_is_refused_with_its_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, module = types.ModuleType("torchxrayvision"), types.ModuleType("torchxrayvision.models")
    module.DenseNet = type("DenseNet", (torch.nn.Module,), {"__module__": "torchxrayvision.models"})
    monkeypatch.setitem(sys.modules, "torchxrayvision", package)
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", module)
    torch.save(module.DenseNet(), tmp_path / "xrv.pt")
    with pytest.raises(
        CheckpointError,
        match=r"is torchxrayvision's pickled whole module, .*save torchxrayvision\.models\.DenseNet\(weights=NAME\)\.state_dict\(\)",
    ):
        state_from_file(tmp_path / "xrv.pt")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"state of the art", b"R", b"\x80\x02}q"])
def test_files_of_another_kind_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth is truncated or no PyTorch file; download or copy it again"):
        state_from_file(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.98])
def test_a_truncated_file_is_named(tmp_path: Path, state: dict[str, Tensor], suffix: str, share: float) -> None:
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="is truncated or no"):
        state_from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"weights": 3}, "holds the keys weights, not a state dict"), ([1, 2], "holds a list, not a state dict")],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        state_from_file(tmp_path / "w.pth")


def test_a_state_dict_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds the keys state_dict, not a state dict"):
        state_from_file(tmp_path / "w.pth")


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist; give a \.pt"):
        state_from_file(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a directory"):
        state_from_file(tmp_path)


def test_a_nameless_checkpoint_is_recognised(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "w.pth")
    assert recognised_from_file(tmp_path / "w.pth").arch == NAMED[NAME].arch


def test_metadata_of_another_version_is_refused(tmp_path: Path) -> None:
    save_file(DenseNet(TINY).state_dict(), tmp_path / "w.safetensors", metadata={METADATA_KEY: json.dumps({"arch": 1})})
    with pytest.raises(CheckpointError, match="metadata that this version does not understand"):
        state_from_file(tmp_path / "w.safetensors")


def test_a_modules_own_name_is_no_prefix(tmp_path: Path) -> None:
    """``self.model = …`` in a user's module: its keys all begin so, and a wrapper's still go."""
    state = {"model.a": torch.zeros(1), "model.b": torch.zeros(1)}
    torch.save(state, tmp_path / "own.pt")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "wrapped.pt")
    for name in ("own.pt", "wrapped.pt"):
        assert set(state_from_file(tmp_path / name, own=state)[0]) == set(state)
        assert set(state_from_file(tmp_path / name)[0]) == {"a", "b"}
