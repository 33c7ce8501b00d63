"""The runtime without an SDK: it is a member of the registry like any other, and fails to order."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dnexport.bundle.verify import Bundle
from dnexport.deploy.check import check_bundle
from dnexport.errors import WorkerCrashed
from dnexport.runtimes.contract import Runtime
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.progress import Silent
from dnexport.spec.target import DEVICES, Target

Run = Callable[..., subprocess.CompletedProcess[str]]
NETWORK = ["--arch", "densenet(blocks=1-1,k=4,stem=cifar,init=8,classes=3)", "--weights", "random", "--no-bench"]


def test_every_failure_is_a_target() -> None:
    for device in DEVICES["null"]:
        target = Target.parse(f"null:{device}")
        assert str(target) == f"null:{device}"
        assert isinstance(runtime_for(target), Runtime)


def test_one_build_survives_every_failure_of_its_targets(run_cli: Run, tmp_path: Path) -> None:
    targets = [
        word for device in ("cpu", "absent", "refuses", "crashes", "nan") for word in ("--target", f"null:{device}")
    ]
    done = run_cli("build", *NETWORK, "--fp16", *targets, "--json", "-o", "b", cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)["targets"]
    assert {name: each["status"] for name, each in found.items()} == {
        "null:cpu": "validated",
        "null:absent": "prepared",
        "null:refuses": "failed",
        "null:crashes": "failed",
        "null:nan": "failed",
    }
    assert found["null:cpu"]["executed_precision"] == "f16"
    assert "refuses" in found["null:refuses"]["error"]
    assert "building null:crashes crashed with SIGABRT" in found["null:crashes"]["error"]
    assert "logits that are not finite" in found["null:nan"]["error"]
    reports = Bundle.open(tmp_path / "b").reports
    assert reports["null:absent"].notes[0].startswith("prepared only (it is not here, as ordered)")


def test_an_engine_that_does_not_answer_is_ended(run_cli: Run, tmp_path: Path) -> None:
    from dnexport.deploy.engine import engine_from_bundle

    done = run_cli("build", *NETWORK, "--fp16", "--target", "null:cpu", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "b")
    assert check_bundle(bundle, None, Silent())[0].usable
    engine = engine_from_bundle(bundle, Target.parse("null:cpu"))
    import dataclasses

    import numpy as np

    stuck = dataclasses.replace(engine, target=Target.parse("null:stuck"))
    with (
        stuck.probe("running") as worker,
        pytest.raises(WorkerCrashed, match=r"running null:stuck gave no answer for 0\.2 s"),
    ):
        worker.method("logits", np.zeros((1, 3, 32, 32), np.float32), 1, timeout_s=0.2)
