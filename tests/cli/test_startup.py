import json
import signal
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


@pytest.mark.alone
def test_help_is_there_at_once(root: Path) -> None:
    """The best of five, as the machine may be busy; 0.35 s, or little more than Python takes to import what draws it."""

    def best(*arguments: str) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    assert best("-m", "dnexport.cli", "--help") < max(0.35, 2 * best("-c", "import typer.rich_utils, pydantic"))


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


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (
            "RuntimeError('the unforeseen')",
            1,
            "error: unexpected RuntimeError: the unforeseen; run it with --debug and report this defect",
        ),
        ("MemoryError()", 5, "error: memory ran out; give smaller images or a smaller batch"),
        ("KeyboardInterrupt()", 130, "interrupted; nothing was replaced"),
    ],
)
def test_the_unforeseen_is_a_sentence_too(raised: str, code: int, words: str) -> None:
    program = f"from dnexport.cli.terminal import terminal\nimport typer\ntry:\n    with terminal(as_json=True):\n        raise {raised}\nexcept typer.Exit as exit:\n    raise SystemExit(exit.exit_code)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.strip() == words
    assert json.loads(done.stdout)["status"] == "failed"


def test_an_interrupt_that_a_library_swallows_stays_one() -> None:
    program = (
        "import os, signal, typer\nfrom dnexport.cli.terminal import terminal\ntry:\n    with terminal():\n"
        "        try:\n            os.kill(os.getpid(), signal.SIGINT)\n            signal.pause()\n"
        "        except KeyboardInterrupt:\n            raise AttributeError('half imported')\n"
        "except typer.Exit as exit:\n    raise SystemExit(exit.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing was replaced\n")


def test_head_may_close_the_pipe() -> None:
    command = f"{sys.executable} -m dnexport.cli archs --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full is here")
def test_a_document_that_cannot_be_written_is_an_error() -> None:
    command = f"{sys.executable} -m dnexport.cli archs --json > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error: cannot write ")
    assert "no space left on device" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_has_gone_has_an_exit_code() -> None:
    command = f"{sys.executable} -m dnexport.cli doctor --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
