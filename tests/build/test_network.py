import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dnexport.build.network import Source, network_from_source, reference_factory, source_from_recipe
from dnexport.build.pipeline import build
from dnexport.build.pretrained import PRETRAINED_FILES
from dnexport.errors import ArchError, CheckpointError, DataError, RecipeError
from dnexport.models.checkpoint import METADATA_KEY
from dnexport.models.zoo import module_from_seed
from dnexport.spec.archs import NAMED
from dnexport.spec.preprocess import CIFAR, IMAGENET
from dnexport.spec.progress import Recording, Silent
from dnexport.spec.recipe import PreprocessChoice, Recipe
from dnexport.spec.training import CheckpointMetadata, TrainingRecipe

NAME = "densenet-bc-40-12"


def recipe(**values: object) -> Recipe:
    return Recipe(**{"name": "r", "arch": NAME, **values})


def test_auto_falls_back_to_random_with_a_warning() -> None:
    progress = Recording(Silent())
    assert source_from_recipe(recipe(arch="densenet121"), progress) == Source("random")
    assert "the weights are RANDOM" in progress.warnings[0]


def test_pretrained_is_taken_from_torch_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "densenet121-a639ec97.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert Path(torch.hub.get_dir()) == tmp_path / "hub", "our rule is torch hub's"
    source = source_from_recipe(recipe(arch="densenet121"), Silent())
    assert source == Source("pretrained", file)
    assert source.digest() == hashlib.sha256(b"weights").hexdigest()


def test_pretrained_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot be downloaded: .*place the file at .*densenet121-a639ec97\.pth"):
        source_from_recipe(recipe(arch="densenet121", weights="pretrained"), Silent())
    with pytest.raises(
        CheckpointError, match="there are no pretrained weights for arch 'densenet-bc-40-12'; known: densenet121"
    ):
        source_from_recipe(recipe(weights="pretrained"), Silent())


def test_a_bundle_of_auto_weights_can_be_measured_again(tmp_path: Path) -> None:
    """``auto`` is stored as what it found, so that `reference_factory` makes the same network."""
    asked = Recipe(name="r", arch=NAME, precision="fp32", targets=("onnxruntime:cpu",))
    manifest = build(asked, tmp_path / "b", Silent(), bench=False).bundle.manifest
    assert manifest.recipe.weights == "random:0"
    factory = reference_factory(manifest)
    assert factory is not None
    other = manifest.model_copy(update={"weights": manifest.weights.model_copy(update={"digest": "other"})})
    assert reference_factory(other) is None


class Shelf(http.server.BaseHTTPRequestHandler):
    """Serves one file, whole or cut off, and counts the requests."""

    content, promised, requests = b"", 0, 0

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.promised))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Shelf]]:
    """A download host on this machine, with a file whose name carries its hash."""
    torch.save(module_from_seed(NAMED[NAME].arch, (32, 32), 0).state_dict(), tmp_path / "w.pth")
    Shelf.content, Shelf.requests = (tmp_path / "w.pth").read_bytes(), 0
    Shelf.promised = len(Shelf.content)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256(Shelf.content).hexdigest()
    monkeypatch.setattr("dnexport.build.pretrained.PRETRAINED_BASE", f"http://127.0.0.1:{server.server_port}/models/")
    monkeypatch.setitem(PRETRAINED_FILES, NAME, f"{NAME}-{digest[:8]}.pth".replace("-bc-40-12-", "bc4012-"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    yield Shelf
    server.shutdown()
    server.server_close()


def test_pretrained_weights_are_downloaded_once_and_their_hash_checked(shelf: type[Shelf]) -> None:
    asked = recipe(weights="pretrained")
    source = source_from_recipe(asked, Silent())
    assert source.kind == "pretrained"
    assert source.file.read_bytes() == shelf.content
    assert source_from_recipe(recipe(), Silent()) == source
    assert shelf.requests == 1
    assert network_from_source(asked, source).arch == NAMED[NAME].arch


def test_a_download_that_is_not_what_its_name_says_is_refused(shelf: type[Shelf], tmp_path: Path) -> None:
    shelf.content = shelf.content[:-1] + b"!"
    with pytest.raises(CheckpointError, match="cannot be downloaded: invalid hash value"):
        source_from_recipe(recipe(weights="pretrained"), Silent())
    progress = Recording(Silent())
    assert source_from_recipe(recipe(), progress) == Source("random")
    assert "the weights are RANDOM" in progress.warnings[0]
    assert not list((tmp_path / "hub").rglob("*.pth"))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"weights": "random:x"}, RecipeError, "has 'x' where a seed belongs; write random:7"),
        ({"weights": "none.pth"}, CheckpointError, "checkpoint none.pth does not exist"),
        ({"weights": "."}, CheckpointError, "checkpoint . is a directory"),
        ({"arch": "densenet12"}, ArchError, "unknown arch 'densenet12'; did you mean densenet121"),
    ],
)
def test_wrong_sources_are_refused(values: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        source_from_recipe(recipe(**values), Silent())


def test_preprocessing_is_flags_then_defaults_and_says_what_it_assumed() -> None:
    network = network_from_source(recipe(arch="densenet121"), Source("random"))
    assert network.preprocess.input_size == (224, 224)
    assert set(network.assumed) == {"input_size", "resize", "interpolation", "channels", "mean", "std"}
    choice = PreprocessChoice(input_size=(288, 288), interpolation="bicubic")
    network = network_from_source(recipe(arch="densenet121", preprocess=choice), Source("random"))
    assert (network.preprocess.resize, network.preprocess.interpolation) == (329, "bicubic")
    assert "interpolation" not in network.assumed
    whole = network_from_source(recipe(arch="densenet121", preprocess=PreprocessChoice(crop=False)), Source("random"))
    assert whole.preprocess.resize is None


@pytest.mark.parametrize(
    ("choice", "resize", "assumed"),
    [
        ({}, None, True),
        ({"crop": True}, 37, False),
        ({"resize": 40}, 40, False),
        ({"crop": False}, None, False),
    ],
)
def test_crop_and_resize_of_a_net_that_crops_nothing_by_itself(
    choice: dict[str, object], resize: int | None, assumed: bool
) -> None:
    chosen = PreprocessChoice.model_validate(choice)
    network = network_from_source(recipe(preprocess=chosen), Source("random"))
    assert network.preprocess.resize == resize
    assert ("resize" in network.assumed) == assumed


def test_a_checkpoints_word_is_kept(tmp_path: Path) -> None:
    stated = CIFAR.model_copy(update={"resize": 40})
    arch = NAMED[NAME].arch
    training = TrainingRecipe()
    metadata = CheckpointMetadata(
        arch=arch,
        arch_name=NAME,
        preprocess=stated,
        class_names=tuple("abcdefghij"),
        data="d",
        training=training,
        test_top1=1,
        test_images=1,
    )
    module = module_from_seed(arch, (32, 32), 0)
    save_file(module.state_dict(), tmp_path / "w.safetensors", metadata={METADATA_KEY: metadata.model_dump_json()})
    network = network_from_source(
        Recipe(name="r", weights=str(tmp_path / "w.safetensors")), Source("file", tmp_path / "w.safetensors")
    )
    assert network.preprocess == stated
    assert network.assumed == ()
    assert network.class_names == tuple("abcdefghij")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"channels": "grey", "mean": [0.5], "std": [0.5]}, "preprocessing gives 1 channels and the arch takes 3"),
        ({"mean": [0.5]}, "mean and std have 3 values"),
        (
            {"input_size": [3, 3]},
            "input size 3×3 cannot be: the arch needs at least 4 pixels each way; set another --input-size",
        ),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        network_from_source(recipe(preprocess=PreprocessChoice.model_validate(choice)), Source("random"))


def test_class_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    assert network_from_source(recipe(class_names=str(tmp_path / "names.txt")), Source("random")).class_names[2] == "c"
    assert network_from_source(recipe(), Source("random")).class_names[2] == "class 2"
    (tmp_path / "names.txt").write_text("a\nb")
    with pytest.raises(DataError, match="2 class names are given for 10 classes"):
        network_from_source(recipe(class_names=str(tmp_path / "names.txt")), Source("random"))
    with pytest.raises(DataError, match="cannot be read"):
        network_from_source(recipe(class_names=str(tmp_path / "none.txt")), Source("random"))


def test_a_factory_makes_the_files_module(tmp_path: Path) -> None:
    module = module_from_seed(NAMED[NAME].arch, (32, 32), 3)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    source = Source("file", tmp_path / "w.pth")
    network = network_from_source(recipe(weights=str(tmp_path / "w.pth")), source)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.factory(source)()(x), module(x))
    assert network.weights(source).trained


def test_a_head_is_replaced_only_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(module_from_seed(NAMED[NAME].arch, (32, 32), 3).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"w\.pth has 10 classes where 14 are asked for; add --new-head"):
        network_from_source(recipe(weights=str(path), classes=14), Source("file", path))
    listener = Recording(Silent())
    chosen = recipe(weights=str(path), classes=14, new_head=True)
    source = source_from_recipe(chosen, listener)
    assert listener.warnings == ["the new head is RANDOM: latency and parity mean something, accuracy does not"]
    network = network_from_source(chosen, source)
    assert network.arch.classes == 14
    assert not network.weights(source).trained
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert network.factory(source)()(x).shape == (1, 14)
        assert torch.equal(network.factory(source)()(x), network.factory(source)()(x))
    same = network_from_source(recipe(weights=str(path), classes=10), Source("file", path))
    assert source.digest() != Source("file", path).digest()
    assert same.arch.classes == 10
    with pytest.raises(RecipeError, match="a new head replaces the one of a checkpoint, and there is none"):
        source_from_recipe(recipe(weights="random", classes=14, new_head=True), Silent())
    with pytest.raises(ValueError, match="a new head needs a number of classes"):
        recipe(weights=str(path), new_head=True)


def test_random_weights_take_any_number_of_classes() -> None:
    assert network_from_source(recipe(weights="random", classes=3), Source("random")).arch.classes == 3


@pytest.mark.parametrize(
    ("change", "whose"),
    [
        ({}, "torchvision"),
        ({"interpolation": "bicubic"}, "timm"),
        ({"interpolation": "nearest"}, None),
        ({"resize": 232}, None),
    ],
)
def test_the_evaluation_of_imagenet_weights_is_named(change: dict[str, object], whose: str | None) -> None:
    preprocess = IMAGENET.model_copy(update=change)
    assert preprocess.evaluation == whose
    assert (f"{whose}'s evaluation; " in str(preprocess)) == (whose is not None)


@pytest.mark.parametrize(
    ("proxy", "bypassed", "asked"),
    [
        ("http://proxy.example:3128", "", ("proxy.example", 3128)),
        ("proxy.example:8080", "", ("proxy.example", 8080)),
        ("http://proxy.example:3128", "host.invalid", ("host.invalid", 443)),
        ("", "", ("host.invalid", 443)),
    ],
)
def test_behind_a_proxy_it_is_the_proxy_that_must_answer(
    proxy: str, bypassed: str, asked: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "no_proxy",
        "NO_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", bypassed)
    seen: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        seen.append(address)
        raise OSError("nobody")

    monkeypatch.setattr("socket.create_connection", connect)
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        source_from_recipe(recipe(arch="densenet121", weights="pretrained"), Silent())
    assert seen == [asked]
