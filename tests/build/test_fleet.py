"""One build for a fleet: what can be built is, what cannot is prepared, what fails is said and loses nobody."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from dnexport.bundle.verify import Bundle
from tests.needs import lacking

Run = Callable[..., subprocess.CompletedProcess[str]]
NETWORK = ["--arch", "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10)", "--weights", "random", "--no-bench"]


def test_a_fleet_shares_everything_but_the_last_steps(run_cli: Run, tmp_path: Path) -> None:
    fleet = ["--target", "@jetson-orin", "--target", "@rtx", "--target", "openvino:cpu"]
    command = ["build", *NETWORK, "--fp16", *fleet, "--allow-execution", "bf16", "--allow-execution", "f32"]
    done = run_cli(*command, "--json", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    status = {name: target["status"] for name, target in document["targets"].items()}
    rtx = "tensorrt-rtx:sm75+sm80+sm86+sm89+sm120"
    assert status["tensorrt"] == "prepared"
    assert status[rtx] == ("prepared" if lacking("tensorrt-rtx") else "built")
    assert status["openvino:cpu"] == ("prepared" if lacking("openvino:cpu") else "validated")
    assert sum(stage.startswith("export") for stage in document["stages"]) == 1
    bundle = Bundle.open(tmp_path / "b", document["digest"])
    if status[rtx] == "built":
        assert bundle.reports[rtx].proof.source == "parsed network"
        assert bundle.reports[rtx].proof.conv_work == {"f16": 1.0}
    if status["openvino:cpu"] == "validated":
        assert bundle.reports["openvino:cpu"].proof.source == "kernel profile"
    assert (tmp_path / "b" / "targets" / "tensorrt" / "model.onnx").is_file()
    again = json.loads(run_cli(*command, "--json", "-o", "b", cwd=tmp_path).stdout)
    assert all(stage["reused"] for stage in again["stages"].values())


def test_a_fleet_with_one_that_is_refused_keeps_the_rest(run_cli: Run, tmp_path: Path) -> None:
    """FP32 for Turing is refused by name; the gateway's engine is there."""
    fleet = ["--target", "@rtx-turing", "--target", "onnxruntime:cpu"]
    done = run_cli("build", *NETWORK, "--fp32", *fleet, "-o", "b", cwd=tmp_path)
    assert done.returncode == 4
    assert "no FP32 convolutions for sm75 (Turing); drop sm75 or build --fp16" in done.stderr
    reports = Bundle.open(tmp_path / "b").reports
    assert {name: report.status for name, report in reports.items()} == {
        "tensorrt-rtx:sm75": "failed",
        "onnxruntime:cpu": "validated",
    }
    unknown = run_cli("build", *NETWORK, "--target", "@rtx-adda", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "there is no fleet '@rtx-adda'; did you mean @rtx-ada" in unknown.stderr
