"""Measure what the README claims: ``python benchmarks/headline.py [IMAGES]`` prints Markdown for docs/results.md.

Each command runs as a user types it, in an empty folder, with nothing cached. Peak memory is that of the whole process
tree.

IMAGES is a folder of pictures that calibrates densenet121's INT8 engine; without it that row is left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import watched

HEADLINE = ["build", "--arch", "densenet121", "--fp16", "--json"]
# One build for a mixed fleet; the CPU targets say what they execute in place of FP16.
FLEET = [
    *["build", "--arch", "densenet121", "--weights", "random", "--fp16", "--json", "--no-bench"],
    *["--target", "@rtx", "--target", "openvino:cpu", "--target", "onnxruntime:cpu", "--target", "tensorrt"],
    *["--allow-execution", "bf16", "--allow-execution", "f32"],
]
INT8 = ["build", "--arch", "densenet121", "--int8", "--json", "--calibration-images", "64", "--calibration-data"]


def run(arguments: list[str], folder: Path) -> tuple[dict[str, Any], float, float]:
    """The command's document, its seconds, and the peak memory of its process tree in GB."""
    done = watched([sys.executable, "-m", "dnexport.cli", *arguments], folder)
    if done.code:
        sys.exit(f"dnexport {' '.join(arguments)} ended with exit code {done.code}: {done.output}")
    return json.loads(done.output), done.seconds, done.peak_bytes / 1e9


def help_seconds(folder: Path) -> float:
    """The median of nine."""
    times = []
    for _ in range(9):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dnexport.cli", "--help"], cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def speedup_text(speedup: dict[str, float | None]) -> str:
    words = {name: "withheld" if ratio is None else f"{ratio:.2f}×" for name, ratio in speedup.items()}
    return f"{words['best_pytorch']} ({words['eager_fp32']} over eager)"


def rows(document: dict[str, Any]) -> list[str]:
    found = []
    for name, target in document["targets"].items():
        accuracy, latency, speedup = target["accuracy"], target["latency_ms"], target["speedup"]
        executed = target["executed_precision"] or "not run here"
        size = f"{target['bytes'] / 1e6:.1f} MB" if target["bytes"] else "–"
        found.append(
            f"| {name} | {target['status']} | {executed} | {size} |"
            + (f" {accuracy['snr_db']:.1f} dB, {accuracy['agreement']:.1%} agree |" if accuracy else " – |")
            + (f" {latency['p50']:.2f} ms |" if latency else " – |")
            + (f" {speedup_text(speedup)} |" if speedup else " – |")
        )
    return found


FIRST_LOGITS = """
import sys, time
from pathlib import Path
from dnexport.bundle.verify import Bundle
began = time.perf_counter()
bundle = Bundle.open(Path(sys.argv[1]))
with bundle.session("onnxruntime:cpu") as session:
    session(bundle.golden().images[:1])
    print(time.perf_counter() - began)
"""


def device_rows(folder: Path, bundle: Path) -> list[str]:
    """What comes after a fleet's build: building it again, checking it, and loading it as a program does."""
    again, seconds, _ = run(FLEET, folder)
    reused = all(stage["reused"] for stage in again["stages"].values())
    checked = watched([sys.executable, "-m", "dnexport.cli", "check", str(bundle), "--json"], folder)
    found = json.loads(checked.output)["openvino:cpu"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", FIRST_LOGITS, str(bundle)]
    first, second = (
        float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    )
    return [
        f"The same again: {seconds:.1f} s, {'all' if reused else 'NOT all'} stages reused.",
        f"`dnexport check`, openvino:cpu: {found['seconds']:.1f} s, self-test "
        + ("passed." if found["self_test"]["passed"] else "FAILED."),
        f"`Bundle.open` to the first logits on onnxruntime:cpu: {first:.2f} s, tried in a child process; then"
        f" {second:.2f} s.",
    ]


def main() -> None:
    images = sys.argv[1:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"`dnexport --help`: {help_seconds(folder):.2f} s (median of nine)\n")
        commands = [HEADLINE, FLEET] + ([[*INT8, str(Path(images[0]).resolve())]] if images else [])
        for number, arguments in enumerate(commands):
            (folder / str(number)).mkdir()
            document, seconds, peak = run(arguments, folder / str(number))
            shown = " ".join(arguments).replace(str(Path(images[0]).resolve()) if images else "\0", "IMAGES")
            print(f"`dnexport {shown}`: {seconds:.0f} s, {peak:.1f} GB at the peak\n")
            print("| target | status | executed | size | against PyTorch | p50 | faster than PyTorch's best form |")
            print("|---|---|---|---|---|---|---|")
            print("\n".join(rows(document)) + "\n")
            if arguments is FLEET:
                print("\n".join(device_rows(folder / str(number), Path(document["bundle"]))) + "\n")


if __name__ == "__main__":
    main()
