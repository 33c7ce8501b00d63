import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "tensorrt", "tensorrt_rtx", "matplotlib", "polygraphy", "sklearn")


def modules_after(*arguments: str) -> set[str]:
    program = (
        "import sys\nfrom dnexport.cli.main import app\n"
        f"try:\n    app({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("arguments", [("--help",), ("build", "--help"), ("archs",), ("--version",)])
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert not modules_after(*arguments) & set(HEAVY)


def test_help_is_there_at_once(root: Path) -> None:
    """The best of five: the machine may be busy, the program is not."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dnexport.cli", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.35


def test_a_host_command_on_a_device_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys\nfor name in ('torch', 'onnx', 'jinja2', 'matplotlib'):\n    sys.modules[name] = None\n"
        "from dnexport.cli.main import app\napp(['build', '--arch', 'densenet121', '--weights', 'random'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 4
    assert (
        "this command needs the package 'jinja2', which is not installed; pip install 'dnexport[host]'" in done.stderr
    )
    assert "Traceback" not in done.stderr
