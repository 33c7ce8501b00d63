"""What is written down is executed: the README's commands run, its links lead somewhere, its words are true."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dnexport.spec.recipe import tomllib

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(p.relative_to(Path(__file__).parents[1])) for p in (Path(__file__).parents[1] / "docs").glob("*.md")),
]
# Run elsewhere, or needing what this machine lacks; each with the place where it is run.
ELSEWHERE = {
    "make demo": "the fixture 'demo' runs it",
    "make test": "it runs this test",
    "make lint": "continuous integration runs it",
    "make format": "rewrites files",
    "pip install '.[host,cpu]'": "the Makefile installs these extras",
    "pip install '.[host,gpu]'": "run nowhere: it needs a GPU",
    "pip install '.' openvino": "tests/test_device.py installs it",
    "pip install '.[rtx]'": "run nowhere: it needs a GPU",
    "dnexport build --weights model.safetensors --fp16 --target @jetson-orin --target @rtx --target openvino:cpu --allow-execution bf16 --allow-execution f32": "benchmarks/headline.py builds a fleet, tests/build/test_fleet.py a small one",
    "dnexport package engines/built/model-fp16 --format tar -o model-fp16.tar": "tests/test_device.py packs and unpacks",
    "dnexport package model-fp16.tar --format folder -o model-fp16": "tests/test_device.py packs and unpacks",
    "dnexport package model-fp16 --format triton --target openvino:cpu -o models": "tests/deploy/test_package.py makes repositories",
    "dnexport check model-fp16": "tests/test_device.py checks",
    "dnexport compile model-fp16 --target tensorrt": "run nowhere: it needs a GPU; tests/test_device.py compiles for ONNX Runtime",
    "dnexport bench model-fp16 -o now.json": "tests/report/test_document.py measures and writes",
    "dnexport report now.json --baseline before.json": "tests/report/test_compare.py compares",
    "dnexport bench model-fp16 --target tensorrt -o board.json": "run nowhere: it needs a GPU; tests/test_device.py measures on ONNX Runtime",
    "dnexport bench model-fp16": "tests/build/test_demo.py and tests/test_device.py measure",
    "dnexport build --arch densenet121 --fp16": "tests/build/test_headline.py runs it",
    "dnexport train --data digits --arch densenet-bc-40-12 --output engines/built/digits.safetensors": "the demo runs it",
    "dnexport train --data DIR --arch densenet-bc-100-12 --recipe cifar+ --output runs/c10.safetensors --resume": "tests/train/test_loop.py resumes",
    "dnexport train --data DIR --weights densenet121.pth --new-head --freeze features.conv0 --freeze features.denseblock1": "tests/build/test_training.py fine-tunes, tests/train/test_loop.py freezes",
    "dnexport inspect model.onnx": "tests/graph/test_inspect.py runs it",
    "torchrun --nproc-per-node 2 -m dnexport.cli train --data DIR --arch densenet-bc-40-12 --output runs/two.safetensors": "tests/train/test_loop.py starts two processes",
    "torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host0:29400 -m dnexport.cli train --data IMAGENET --arch densenet121 --recipe imagenet --output runs/densenet121.safetensors": "run nowhere: it needs four machines",
}


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_is_run_somewhere(name: str, root: Path) -> None:
    for command in commands((root / name).read_text()):
        assert command in ELSEWHERE


def test_the_extras_that_are_to_be_installed_exist(root: Path) -> None:
    """pip resolves nothing here: the names are checked, the versions are those of the constraints."""
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in commands((root / "README.md").read_text()):
        for named in re.findall(r"\[([\w,]+)\]", command):
            assert set(named.split(",")) <= set(extras)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str, root: Path) -> None:
    folder = (root / name).parent
    for link in re.findall(r"\]\(([^)#]+)\)", (root / name).read_text()):
        assert link.startswith("https://") or (folder / link).exists(), link
    for page, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (root / name).read_text()):
        text = ((folder / page) if page else root / name).read_text()
        headings = {
            re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-")
            for line in re.findall(r"^#+ (.*)$", text, flags=re.M)
        }
        assert heading in headings, f"{page}#{heading}"


def test_every_command_of_the_table_exists(
    root: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    table = re.findall(r"^\| `dnexport (.*?)` \|", (root / "README.md").read_text(), flags=re.M)
    named = {word for row in table for word in re.findall(r"\b[a-z]+\b", row.replace("`", ""))}
    listed = set(re.findall(r"^│ ([a-z]+) ", run_cli("--help", cwd=root).stdout, flags=re.M))
    assert listed == named


def test_make_targets_of_the_documents_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (root / "Makefile").read_text(), flags=re.M))
    for name in DOCUMENTS:
        assert set(re.findall(r"\bmake ([a-z0-9-]+)", (root / name).read_text())) <= targets | {"sure"}


def test_every_flag_of_the_measurement_exists(
    root: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    said = set(re.findall(r"`(--[a-z-]+)", (root / "docs" / "latency.md").read_text()))
    listed = set(re.findall(r"--[a-z-]+", run_cli("bench", "--help", cwd=root).stdout))
    assert said <= listed
