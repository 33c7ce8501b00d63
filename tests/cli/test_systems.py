"""Linux on x86-64 and aarch64; elsewhere one sentence, before a package is imported that may not exist there."""

import json
import subprocess
import sys

import pytest


def run_on(system: str, machine: str, *arguments: str, lacks: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The program in a process that takes its machine for another one, and cannot import some packages."""
    program = (
        f"import platform, sys\nsys.platform = {system!r}\nplatform.machine = lambda: {machine!r}\n"
        f"sys.modules.update(dict.fromkeys({lacks!r}))\nfrom dnexport.cli.__main__ import main\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("darwin", "arm64", "darwin on arm64"),
        ("win32", "AMD64", "win32 on AMD64"),
        ("linux", "riscv64", "linux on riscv64"),
        ("linux", "armv7l", "linux on armv7l"),
        ("freebsd14", "", "freebsd14 on unknown"),
    ],
)
def test_another_system_is_refused_in_one_sentence(system: str, machine: str, words: str) -> None:
    lacks = ("typer", "click", "rich", "pydantic", "numpy", "PIL")
    done = run_on(system, machine, "doctor", lacks=lacks)
    sentence = (
        f"dnexport runs on Linux on x86_64 and aarch64, and this system is {words};"
        " run it on such a machine, in a container or under WSL"
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, "", f"error: {sentence}\n")
    document = json.loads(run_on(system, machine, "doctor", "--json", lacks=lacks).stdout)
    assert (document["schema"], document["status"]) == (1, "failed")
    assert document["error"]["class"] == "TargetUnavailable"
    assert f"{document['error']['message']}; {document['error']['remedy']}" == sentence


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_supported_systems_are_not(machine: str) -> None:
    assert run_on("linux", machine, "archs").returncode == 0


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_the_version_are_had_everywhere(option: str) -> None:
    done = run_on("darwin", "arm64", option)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dnexport" in done.stdout
