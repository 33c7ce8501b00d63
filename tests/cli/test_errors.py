"""Bad input, as a user meets it: one sentence, the exit code of its class, no traceback, nothing half written."""

import json
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnexport.build.document import NOTHING
from dnexport.models.zoo import module_from_seed
from dnexport.spec.archs import NAMED
from tests.data.test_datasets import write_images
from tests.models.test_checkpoint import Hostile

Run = Callable[..., subprocess.CompletedProcess[str]]
NAME = "densenet-bc-40-12"
SMALL = "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10)"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and data folders, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    state = module_from_seed(NAMED[NAME].arch, (32, 32), 0).state_dict()
    torch.save(state, folder / "good.pth")
    (folder / "cut.pth").write_bytes((folder / "good.pth").read_bytes()[:9000])
    with (folder / "hostile.pth").open("wb") as file:
        pickle.dump(Hostile(), file)
    torch.save({**state, "classifier.bias": state["classifier.bias"] * np.nan}, folder / "nan.pth")
    for name in (f"class{i}" for i in range(10)):
        write_images(folder / "images" / name, 5)
        write_images(folder / "broken" / name, 5)
    (folder / "broken" / "class3" / "2.png").write_bytes(b"no picture")
    (folder / "empty").mkdir()
    write_images(folder / "two" / "cat", 5)
    write_images(folder / "two" / "dog", 5)
    (folder / "typo.toml").write_text(f'arch = "{NAME}"\ntargts = ["auto"]\n')
    return folder


def build(*arguments: str) -> list[str]:
    return ["build", "--no-bench", *arguments]


LOCAL = ["--target", "onnxruntime:cpu", "--allow-execution", "f32"]
CASES = {
    "an export over another file": (["export", "--arch", NAME, "--weights", "random", "-o", "typo.toml"], 2, "output typo.toml exists and is no graph; choose another --output"),
    "a table over another file": (["calibrate", "--arch", NAME, "--weights", "random", "--calibration-data", "synthetic", "-o", "good.pth"], 2, "output good.pth exists and is no calibration table; choose another --output"),
    "a report of nothing": (["report", "empty", "-o", "x.md"], 3, "empty is not a bundle"),
    "a report over another file": (["report", "empty", "-o", "typo.toml"], 2, "does not say which report it is"),
    "a measurement into another file": (["bench", "empty", "-o", "typo.toml"], 2, "does not say which report it is"),
    "a budget on nothing": (build("--arch", NAME, "--require", "p98<=5ms"), 2, "is about an unknown metric; did you mean p9"),
    "a fleet that is not known": (build("--arch", NAME, "--target", "@jetson-orinn"), 2, "there is no fleet '@jetson-orinn'; did you mean @jetson-orin"),
    "a batch that descends": (build("--arch", NAME, "--batch", "4..2..8"), 2, "is not 1 <= min <= opt <= max"),
    "unknown arch": (build("--arch", "densenet112"), 3, "unknown arch 'densenet112'; did you mean densenet"),
    "missing checkpoint": (build("--weights", "none.pth", "--arch", NAME), 3, "checkpoint {}/none.pth does not exist; give a .pt"),
    "truncated checkpoint": (build("--weights", "cut.pth", "--arch", NAME), 3, "cut.pth is truncated or no PyTorch file; download or copy it again"),
    "another arch": (build("--weights", "good.pth", "--arch", "densenet121"), 3, "more keys; name the --arch that it was trained with"),
    "a pickle with code": (build("--weights", "hostile.pth", "--arch", NAME), 3, "hostile.pth is a pickle that would run code when loaded, and is refused"),
    "non-finite weights": (build("--weights", "nan.pth", "--arch", NAME), 3, "has 10 values in classifier.bias that are not finite"),
    "empty data": (build("--arch", NAME, "--data", "empty"), 3, "data folder {}/empty holds neither images nor class folders"),
    "missing data": (build("--arch", NAME, "--data", "nowhere"), 3, "data folder {}/nowhere does not exist"),
    "an undecodable image": (build("--arch", SMALL, "--weights", "random", "--data", "broken", "--int8", "--target", "null:cpu", "--calibration-images", "50"), 3, "1 image of 40 cannot be decoded: {}/broken/class3/2.png; remove them or replace them"),
    "other classes": (build("--arch", NAME, "--data", "two"), 3, "data {}/two has 2 classes and the network 10"),
    "unknown key": (build("typo.toml"), 2, "typo.toml: unknown key 'targts'; did you mean targets?"),
    "fp16 and int8": (build("--arch", NAME, "--fp16", "--int8"), 2, "--int8 already runs the rest in FP16; drop --fp16"),
    "fp32 and fp16": (build("--arch", NAME, "--fp32", "--fp16"), 2, "--fp32 contradicts --fp16 and --int8"),
    "int8 without images": (build("--arch", NAME, "--int8"), 2, "INT8 needs images to calibrate with, and none are given; add --data DIR"),
    "unknown target": (build("--arch", NAME, "--target", "tensorflow"), 2, "unknown target 'tensorflow'"),
    "a target that cannot work here": (build("--arch", NAME, "--target", "torch"), 4, "target torch cannot work here"),
    "an unsaid stand-in": (build("--arch", NAME, "--target", "onnxruntime:cpu"), 2, "would execute fp16 as f32; say --allow-execution f32"),
    "nothing to build": (build(), 2, "flags: an arch is needed where the weights are not a file; name one with --arch, or --weights FILE"),
    "no such arch, however spelt": (build("--arch", "densenet 121 !"), 3, "unknown arch 'densenet 121 !'; did you mean densenet121"),
    "no such table": (build("--arch", NAME, "--weights", "random", "--int8", "--calibration-table", "none.json"), 3, "calibration table {}/none.json cannot be read"),
    "one number for three": (build("--arch", NAME, "--weights", "random", "--mean", "0.5"), 2, "preprocessing: mean and std have 3 values for channels 'rgb'"),
    "wrong numbers": (build("--arch", NAME, "--mean", "a,b"), 2, "--mean 'a,b' is not a list of numbers"),
    "batch": (build("--arch", NAME, "--batch", "8..1..1"), 2, "batch '8..1..1' is not 1 <= min <= opt <= max"),
    "no bundle": (["validate", "empty"], 3, "empty is not a bundle: it has no bundle.json"),
    "unknown data to train on": (["train", "--data", "nowhere", "--arch", NAME], 3, "data folder nowhere does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_the_exit_code(case: str, files: Path, run_cli: Run, tmp_path: Path) -> None:
    arguments, code, message = CASES[case]
    before = sorted(p.name for p in files.iterdir() if p.name != "engines")
    output = ["--output", str(tmp_path / "out")] if arguments[0] == "build" else []
    done = run_cli(*arguments, *output, cwd=files, env={"TORCH_HOME": str(files / "hub")})
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1
    assert message.replace("{}", str(files)) in lines[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert "code ran" not in done.stdout
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in files.iterdir() if p.name != "engines") == before


def test_a_failure_in_json_is_a_document_too(files: Path, run_cli: Run) -> None:
    done = run_cli("build", "--arch", "densenet112", "--json", cwd=files)
    document = json.loads(done.stdout)
    assert document["status"] == "failed"
    assert set(document) == {*NOTHING, "error"}
    assert document["bundle"] is None
    assert document["error"]["class"] == "ArchError"
    assert "did you mean" in document["error"]["remedy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--archh", "x"], "No such option: --archh"),
        (["predict"], "Missing argument 'bundle'"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_a_command_line_that_is_not_understood_is_a_document_too(
    arguments: list[str], message: str, files: Path, run_cli: Run
) -> None:
    done = run_cli(*arguments, "--json", cwd=files)
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert (document["status"], document["error"]["class"]) == ("failed", "UsageError")
    assert message in document["error"]["message"]
    assert "Error" in done.stderr
    plain = run_cli(*arguments, cwd=files)
    assert (plain.returncode, plain.stdout) == (2, "")


def test_debug_shows_the_traceback(files: Path, run_cli: Run) -> None:
    done = run_cli("build", "--arch", "densenet112", "--debug", cwd=files)
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_a_full_disk_leaves_nothing(files: Path, tmp_path: Path) -> None:
    """A file size limit stops the writing in the middle, as a full disk does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    program = [sys.executable, "-m", "dnexport.cli", "build", "--no-bench", "--arch", SMALL, "--weights", "random", "--fp32", "--target", "onnxruntime:cpu"]  # fmt: skip
    done = subprocess.run([*program, "-o", str(tmp_path / "out")], capture_output=True, text=True, preexec_fn=limit, cwd=files, check=False)  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert re.search(r"error: cannot write .*: file too large; raise the file size limit", done.stderr)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("delay", [1.0, 4.0])
def test_ctrl_c_leaves_the_earlier_bundle(files: Path, tmp_path: Path, delay: float, run_cli: Run) -> None:
    arguments = ["build", "--no-bench", "--arch", NAME, "--weights", "random:1", "--fp32", "--target", "onnxruntime:cpu", "-o", str(tmp_path / "out")]  # fmt: skip
    assert run_cli(*arguments, cwd=files).returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    arguments[arguments.index("random:1")] = f"random:{int(delay) + 5}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dnexport.cli", *arguments],
        cwd=files,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background with Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "interrupted; nothing was replaced" in words
    assert "Traceback" not in words
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
    assert not list(tmp_path.rglob("*partial*"))


def test_a_failing_target_does_not_lose_the_others(files: Path, run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("build", "--no-bench", "--json", "--arch", SMALL, "--weights", "random", "--fp32", "--target", "tensorrt-rtx:sm87",
                   "--target", "onnxruntime:cpu", "-o", str(tmp_path / "out"), cwd=files)  # fmt: skip
    assert done.returncode == 4
    document = json.loads(done.stdout)
    assert document["status"] == "failed"
    assert document["error"]["class"] == "TargetUnavailable"
    assert document["targets"]["onnxruntime:cpu"]["status"] == "validated"
    assert document["targets"]["tensorrt-rtx:sm87"]["status"] == "failed"
    assert "does not build for sm87" in document["targets"]["tensorrt-rtx:sm87"]["error"]
    assert (tmp_path / "out" / "bundle.json").is_file()


def test_a_target_of_another_machine_is_prepared(files: Path, run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("build", "--no-bench", "--json", "--arch", SMALL, "--weights", "random", "--fp16", "--target", "onnxruntime:cuda",
                   "-o", str(tmp_path / "out"), cwd=files)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["targets"]["onnxruntime:cuda"]
    assert (report["status"], report["file"]) == ("prepared", None)
    assert (tmp_path / "out" / "targets" / "onnxruntime-cuda" / "model.onnx").is_file()
