import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dnexport.data.datasets import Splits
from dnexport.data.imageset import ImageSet
from dnexport.errors import BuildFailed, CheckpointError, UsageError
from dnexport.models.zoo import module_from_seed, recognised_from_file
from dnexport.spec.progress import Silent
from dnexport.spec.training import TrainingRecipe
from dnexport.train import loop
from dnexport.train.job import Job
from dnexport.train.loop import train
from tests.data.test_datasets import write_images
from tests.networks import FAMILY, TINY, TINY_PREPROCESS

QUICK = TrainingRecipe(epochs=3, batch=8, precision="fp32")
TWO = TINY.model_copy(update={"classes": 2})


def two_colours(count: int) -> ImageSet:
    generator = np.random.default_rng(count)
    labels = tuple(index % 2 for index in range(count))
    pictures = [generator.integers(0, 60, (16, 16, 3), np.uint8) + np.uint8(190 * label) for label in labels]
    return ImageSet("two colours", pictures, labels, ("dark", "light"))


SPLITS = Splits(two_colours(64), two_colours(20))


def job(path: Path, recipe: TrainingRecipe = QUICK) -> Job:
    return Job(TWO, None, SPLITS, TINY_PREPROCESS, recipe, path / "w.safetensors", accelerator="cpu")


class Stopped(Exception):
    """Stands for the end of the process."""


class StopAfter(Silent):
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def row(self, cells: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped


def test_it_learns_and_the_checkpoint_says_everything(tmp_path: Path) -> None:
    trained = train(job(tmp_path), Silent())
    found = recognised_from_file(trained.path)
    assert found.arch == TWO
    assert found.metadata is not None
    assert found.metadata.class_names == ("dark", "light")
    assert found.metadata.preprocess == TINY_PREPROCESS
    assert (found.metadata.test_top1, found.metadata.test_images) == (1.0, 20)
    rows = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] > rows[-1]["loss"]
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "w.state").exists()


def test_a_seed_repeats_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(job(tmp_path / name, QUICK.model_copy(update={"seed": seed, "mirror": True})), Silent())
    a, b, c = ((tmp_path / name / "w.safetensors").read_bytes()[-4096:] for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9, "precision": "bf16", "mirror": True, "shift": 2}])
def test_resumed_training_comes_to_the_same_bits(extra: dict[str, object], tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"epochs": 4, "deterministic": True, **extra})
    whole, parts = (dataclasses.replace(job(tmp_path / name, recipe), arch=TWO.model_copy(update={"dropout": 0.3})) for name in ("whole", "parts"))  # fmt: skip
    train(whole, Silent())
    for epochs in (1, 2):
        with pytest.raises(Stopped):
            train(parts, StopAfter(epochs), resume=True)
        assert not parts.output.exists()
    train(parts, Silent(), resume=True)
    assert whole.output.read_bytes() == parts.output.read_bytes()
    assert not torch.are_deterministic_algorithms_enabled()
    lines = [[json.loads(line) for line in j.log_path.read_text().splitlines()] for j in (whole, parts)]
    assert [row["loss"] for row in lines[0]] == [row["loss"] for row in lines[1]]


def test_a_state_is_neither_overwritten_nor_taken_for_another(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(job(tmp_path), StopAfter(1))
    state = (tmp_path / "w.state").read_bytes()
    with pytest.raises(UsageError, match=r"an unfinished training lies at .*w\.state; go on with --resume"):
        train(job(tmp_path), Silent())
    other = QUICK.model_copy(update={"learning_rate": 0.2, "epochs": 9})
    with pytest.raises(UsageError, match=r"recipe\.epochs was 3, is 9; recipe\.learning_rate was 0\.1, is 0\.2"):
        train(job(tmp_path, other), Silent(), resume=True)
    elsewhere = dataclasses.replace(job(tmp_path), splits=Splits(two_colours(66), SPLITS.test))
    with pytest.raises(UsageError, match=r"is of another training \(data was "):
        train(elsewhere, Silent(), resume=True)
    assert (tmp_path / "w.state").read_bytes() == state
    (tmp_path / "w.state").write_bytes(state[: len(state) // 2])
    with pytest.raises(CheckpointError, match=r"w\.state is damaged or of another version"):
        train(job(tmp_path), Silent(), resume=True)


def test_how_it_is_executed_may_change(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(job(tmp_path), StopAfter(1))
    thrifty = QUICK.model_copy(update={"memory_efficient": True, "test_every": 2})
    trained = train(job(tmp_path, thrifty), Silent(), resume=True)
    assert [row.test_top1 is None for row in trained.history] == [False, False, False]
    other = dataclasses.replace(
        job(tmp_path / "b"), preprocess=TINY_PREPROCESS.model_copy(update={"mean": (0.1, 0.1, 0.1)})
    )
    with pytest.raises(Stopped):
        train(job(tmp_path / "b"), StopAfter(1))
    with pytest.raises(UsageError, match=r"is of another training \(data was "):
        train(other, Silent(), resume=True)


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    first = train(job(tmp_path), Silent())
    stamp = first.path.stat().st_mtime_ns
    again = train(job(tmp_path), StopAfter(1), resume=True)
    assert (again.metadata, again.history) == (first.metadata, first.history)
    assert first.path.stat().st_mtime_ns == stamp
    seldom = train(job(tmp_path, QUICK.model_copy(update={"test_every": 2})), StopAfter(1), resume=True)
    assert seldom.metadata == first.metadata, "how often it is tested makes no other network"
    mine = job(tmp_path)
    fewer = dataclasses.replace(mine.splits, train=mine.splits.train.subset(range(len(mine.splits.train) - 1)))
    other = train(dataclasses.replace(mine, splits=fewer), Silent(), resume=True)
    assert other.path.stat().st_mtime_ns > stamp, "other data is another training"


def test_the_averaged_weights_are_kept_and_tested(tmp_path: Path) -> None:
    last, mean = (train(job(tmp_path / name, QUICK.model_copy(update={"ema": ema})), Silent()) for name, ema in (("a", 0.0), ("b", 0.99)))  # fmt: skip
    a, b = load_file(last.path), load_file(mean.path)
    assert not torch.equal(a["classifier.weight"], b["classifier.weight"])
    # The average stays close: the learning rate is zero at the end.
    assert torch.allclose(a["classifier.weight"], b["classifier.weight"], atol=0.2)
    assert torch.equal(a["features.norm5.num_batches_tracked"], b["features.norm5.num_batches_tracked"])


def test_frozen_parts_keep_weights_and_statistics(tmp_path: Path) -> None:
    start = module_from_seed(TWO, (16, 16), 1).state_dict()
    recipe = QUICK.model_copy(update={"freeze": ("features.conv0", "features.denseblock1")})
    trained = train(dataclasses.replace(job(tmp_path, recipe), start=start), Silent())
    weights = load_file(trained.path)
    frozen = {key for key in start if key.startswith(recipe.freeze)}
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(weights[key], start[key]) for key in frozen)
    assert not torch.equal(weights["classifier.weight"], start["classifier.weight"])
    with pytest.raises(UsageError, match=r"no part 'denseblock1' to freeze; it has features, features\.conv0"):
        train(job(tmp_path, QUICK.model_copy(update={"freeze": ("denseblock1",)})), Silent())


def test_a_condensenet_learns_its_groups_and_deploys(tmp_path: Path) -> None:
    arch = FAMILY["condensenet training"].model_copy(update={"classes": 2, "stem": "cifar"})
    recipe = QUICK.model_copy(update={"schedule": "cosine", "lasso": 1e-5, "epochs": 6, "ema": 0.9})
    trained = train(dataclasses.replace(job(tmp_path, recipe), arch=arch), Silent())
    found = recognised_from_file(trained.path)
    assert found.arch == arch
    deployed = found.deployed()
    assert deployed.arch.form == "converted"
    x = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(found.module(x), deployed.module(x), atol=1e-4)


def test_one_epoch_cannot_condense(tmp_path: Path) -> None:
    arch = FAMILY["condensenet training"].model_copy(update={"classes": 2, "stem": "cifar"})
    with pytest.raises(UsageError, match="condenses over the first half of its epochs, and 1 has none"):
        train(dataclasses.replace(job(tmp_path, QUICK.model_copy(update={"epochs": 1})), arch=arch), Silent())


def test_a_diverging_loss_stops_and_names_the_batch(tmp_path: Path) -> None:
    with pytest.raises(
        BuildFailed,
        match=r"the loss is not finite in epoch 1, step \d+ \(batch of image \d+, .*; train anew with a lower --learning-rate",
    ):
        train(job(tmp_path, QUICK.model_copy(update={"learning_rate": 1e30})), Silent())
    assert not list(tmp_path.iterdir())


def test_a_poisoned_epoch_keeps_the_state_of_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        train(job(tmp_path), StopAfter(1))
    state = (tmp_path / "w.state").read_bytes()
    monkeypatch.setattr(
        loop, "input_from_pixels", lambda pixels, preprocess: np.full((len(pixels), 3, 16, 16), np.nan, np.float32)
    )
    with pytest.raises(BuildFailed, match=r"in epoch 2, step 1 .*the state after epoch 1 is kept in .*w\.state"):
        train(job(tmp_path), Silent(), resume=True)
    assert (tmp_path / "w.state").read_bytes() == state


def test_memory_that_runs_out_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 GB")

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", starved)
    with pytest.raises(
        BuildFailed, match="memory ran out with 8 images in a micro-batch; train with --memory-efficient"
    ):
        train(job(tmp_path), Silent())


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        train(job(tmp_path), StopAfter(1))
    state = (tmp_path / "w.state").read_bytes()

    def full(path: Path, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        train(job(tmp_path), Silent(), resume=True)
    assert (tmp_path / "w.state").read_bytes() == state
    assert {path.name for path in tmp_path.iterdir()} == {"w.state", "w.jsonl", "w.png"}


def test_two_processes_come_to_the_weights_of_two_accumulations(tmp_path: Path) -> None:
    for name in ("dark", "light"):
        for part, count in (("train", 16), ("test", 4)):
            write_images(tmp_path / "data" / part / name, count)
    flags = [
        "train", "--data", str(tmp_path / "data"), "--arch", "densenet(blocks=2-2,k=4,init=8,stem=cifar)", "--recipe", "short",
        "--epochs", "2", "--batch", "8", "--precision", "fp32", "--accelerator", "cpu", "--workers", "0", "--ema", "0",
    ]  # fmt: skip
    run: dict[str, Any] = {
        "capture_output": True,
        "text": True,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "timeout": 200,
    }
    apart, together = tmp_path / "apart.safetensors", tmp_path / "together.safetensors"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    done = subprocess.run([*launcher, "-m", "dnexport.cli", *flags, "--output", str(apart)], check=True, **run)
    assert done.stdout.count("checkpoint") == 1, "one process speaks"
    subprocess.run(
        [sys.executable, "-m", "dnexport.cli", *flags, "--accumulate", "2", "--output", str(together)],
        check=True,
        **run,
    )
    a, b = load_file(apart), load_file(together)
    for key, value in a.items():
        if (
            "running" not in key and "num_batches" not in key
        ):  # statistics are averaged in the one, in turn in the other
            assert torch.allclose(value, b[key], atol=1e-5), key


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    for name in ("dark", "light"):
        for part, count in (("train", 100), ("test", 10)):
            write_images(tmp_path / "data" / part / name, count)
    output = tmp_path / "w.safetensors"
    command = [
        sys.executable, "-m", "dnexport.cli", "train", "--data", str(tmp_path / "data"), "--arch", "densenet(blocks=2-2,k=4,init=8,stem=cifar)",
        "--recipe", "short", "--epochs", "16", "--batch", "16", "--resume", "--output", str(output), "--accelerator", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not output.with_suffix(".state").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = output.with_suffix(".jsonl").read_text().splitlines() if output.with_suffix(".jsonl").exists() else []
    assert not output.exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    lines = output.with_suffix(".jsonl").read_text().splitlines()
    assert len(lines) == 16
    assert lines[: len(rows)] == rows
    assert "16/16" in done.stderr
