"""Ctrl-C from the first import of the program on until it ends: one sentence, one document, exit code 130."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SENTENCE = "interrupted; nothing was replaced\n"
DOCUMENT = {
    "schema": 1,
    "status": "failed",
    "error": {"class": "Interrupted", "message": "interrupted", "remedy": ""},
}
SMALL = "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10)"
BUILD = ("build", "--no-bench", "--arch", SMALL, "--weights", "random", "--fp32", "--target", "onnxruntime:cpu")
INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"
STARTS = {
    "the script": [str(Path(sys.executable).with_name("dnexport"))],
    "the package": [sys.executable, "-m", "dnexport"],
    "the command line": [sys.executable, "-m", "dnexport.cli"],
}
# Ready is said as soon as the handler stands: what Python does before that is not the program's.
SAYS_READY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dnexport.cli import __main__ as program
refuse = program._refuse_other_systems
program._refuse_other_systems = lambda: (os.write(int(os.environ["READY"]), b"ready"), refuse())
program.main()
"""


def run(
    command: list[str], *arguments: str, path: Path | None = None, cwd: Path | None = None, ignored: bool = False
) -> subprocess.CompletedProcess[str]:
    """Ctrl-C is taken or ignored as said, and not as whoever runs the tests has it, for that is inherited."""
    first = os.pathsep.join(filter(None, [str(path or ""), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | ({"PYTHONPATH": first} if first else {})
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        timeout=60,
        check=False,
    )


def run_program(program: str, *arguments: str, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    """The program, changed by statements that stand before its start."""
    started = f"import os, signal\n{program}\nfrom dnexport.cli.__main__ import main\nmain()"
    return run([sys.executable, "-c", started], *arguments, ignored=ignored)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("what", ["time.sleep(30)", "raise ImportError('half imported')", "pass"])
def test_an_interrupt_while_typer_is_imported(start: str, what: str, tmp_path: Path) -> None:
    """A module in its place sends it; whoever imports may turn an exception into another, or swallow it."""
    stub = f"import os, signal, time\ntry:\n    {INTERRUPT}\n    time.sleep(30)\nexcept BaseException:\n    {what}\n"
    (tmp_path / "typer.py").write_text(stub)
    done = run(STARTS[start], "archs", path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", SENTENCE)
    done = run(STARTS[start], "archs", "--json", path=tmp_path)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (130, DOCUMENT, SENTENCE)


@pytest.mark.parametrize("ends", [INTERRUPT, "(_ for _ in ()).throw(typer.Abort())", "(_ for _ in ()).throw(KeyboardInterrupt())"])  # fmt: skip
def test_an_interrupt_while_the_options_are_read(ends: str) -> None:
    program = f"import typer, dnexport.cli.main as program\nprogram.app = lambda **_: {ends}"
    done = run_program(program, "archs", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (130, DOCUMENT, SENTENCE)


def test_interrupts_at_many_moments(tmp_path: Path) -> None:
    """Python, imports, options and a build that has begun: 24 moments in a second and a half."""

    def interrupted_after(delay: float) -> tuple[int, str, str]:
        reader, writer = os.pipe()
        environment = os.environ | {"READY": str(writer), "OMP_WAIT_POLICY": "passive"}
        program = [sys.executable, "-c", SAYS_READY, *BUILD, "--quiet", "--json", "--output", str(tmp_path / "out")]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, pass_fds=[writer])  # fmt: skip
        os.close(writer)
        assert os.read(reader, 5) == b"ready"
        os.close(reader)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, words = process.communicate(timeout=60)
        return process.returncode, out, words

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(interrupted_after, [1.5 * step / 24 for step in range(24)]))
    for code, out, words in found:
        assert (code, words) == (130, SENTENCE)
        document = json.loads(out)
        assert {key: document[key] for key in DOCUMENT} == DOCUMENT
    assert not list(tmp_path.iterdir())


def test_a_second_interrupt_does_not_cut_the_answer_to_the_first() -> None:
    program = f"""
from dnexport.cli import archs, terminal
document = terminal.Terminal.document
def answer(view, value):
    {INTERRUPT}
    if "error" not in value:
        raise AssertionError("the first interrupt was lost")
    document(view, value)
terminal.Terminal.document = answer
"""
    done = run_program(program, "archs", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (130, DOCUMENT, SENTENCE)


def test_an_interrupt_inside_of_exec_has_the_exit_code_too(tmp_path: Path) -> None:
    """CPython means to die of SIGINT then, as soon as a module that runs as the program has ended."""
    program = """
import sys
from dnexport.cli import __main__ as program, main, terminal
def command():
    with terminal.terminal():
        exec("raise KeyboardInterrupt")
main.app.registered_commands.clear()
main.app.command("archs")(command)
main.app.command("other")(lambda: None)
program.main()
"""
    (tmp_path / "interrupted_in_exec.py").write_text(program)
    done = run([sys.executable, "-m", "interrupted_in_exec", "archs"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, SENTENCE)


@pytest.mark.parametrize("when", ["after what the program registers", "before it"])
def test_an_interrupt_after_the_result_changes_nothing_of_it(when: str) -> None:
    late = "import atexit\nregister = lambda: atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    first = "import dnexport.cli.main as program\nrun = program._exit_code\nprogram._exit_code = lambda: (run(), register())[0]"
    done = run_program(late + (first if when == "before it" else "register()"), "archs", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["name"]


def test_an_interrupt_that_the_shell_has_ignored_stays_ignored() -> None:
    program = f"import dnexport.cli.main as program\nrun = program._exit_code\nprogram._exit_code = lambda: ({INTERRUPT}, run())[1]"
    done = run_program(program, "archs", ignored=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
