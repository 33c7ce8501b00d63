"""Run vendor code in a child process, so that its crash, hang or memory hunger becomes an error with a name.

A `Worker` is a fresh Python interpreter that serves calls, one at a time, over its standard input and output as
length-prefixed pickles. Functions travel by reference (module and name), arrays by value. What the libraries print is
kept and its end is quoted in the error. The worker dies with its parent.

Workers that are measured beside each other are *parked*: stopped by a signal except while they answer a call. The
threads of PyTorch and of the runtimes spin while they wait for work, as they do for every user, and two processes whose
threads spin on the same processors slow each other many times over. Only one of the parked workers ever has a thread
that can run.
"""

import contextlib
import ctypes
import importlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any, TypeVar

from dnexport.errors import BuildFailed, DnexportError, WorkerCrashed
from dnexport.runtimes.scratch import scratch

_HEADER = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1

Result = TypeVar("Result")


class Worker:
    """A child process that keeps one object and answers calls.

    Args:
        label: what the child does, as the subject of error messages: ``building openvino:cpu``.
        env: variables that the child starts with, beside ours. How threads wait is not among them: libraries run as
            they come.
        parked: stop the child whenever it is not answering a call.
    """

    def __init__(self, label: str, *, env: dict[str, str] | None = None, parked: bool = False) -> None:
        self.label, self._parked = label, parked
        self._held = contextlib.ExitStack()
        # A child that is killed leaves its temporary files in a folder that is known to be nobody's.
        temporary = {"TMPDIR": str(self._held.enter_context(scratch()))}
        variables = os.environ | {"PYTHONUNBUFFERED": "1"} | temporary | (env or {})
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dnexport.runtimes.isolate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=variables,
        )
        self._answers: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._reader.start()

    @property
    def process(self) -> int:
        """Its number."""
        return self._process.pid

    def call(self, function: Callable[..., Result], *args: Any, timeout_s: float = 600.0) -> Result:
        """Run a module-level function in the child.

        Raises:
            DnexportError: as the function raised it.
            BuildFailed: the function raised anything else.
            WorkerCrashed: the child died, or did not answer within ``timeout_s``.
        """
        result: Result = self._ask(("call", function, args), timeout_s)
        return result

    def create(self, factory: Callable[..., Any], *args: Any, timeout_s: float = 600.0) -> None:
        """Build the object that `method` talks to; it never leaves the child."""
        self._ask(("create", factory, args), timeout_s)

    def method(self, name: str, *args: Any, timeout_s: float = 600.0) -> Any:
        """Call a method of the created object."""
        return self._ask(("method", name, args), timeout_s)

    def close(self) -> None:
        """End the child; the second call does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        self._held.close()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: tuple[str, Any, tuple[Any, ...]], timeout_s: float) -> Any:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            _send(self._process.stdin, message)
        except (BrokenPipeError, OSError):
            raise self._crash() from None
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            remedy = "run it again; if it hangs again, another version of that library may help"
            raise WorkerCrashed(f"{self.label} gave no answer for {timeout_s:g} s", remedy) from None
        if answer is None:
            raise self._crash()
        self._signal(signal.SIGSTOP)
        kind, value = answer
        if kind == "result":
            return value
        if kind == "refused":
            raise value
        name, text, trace = value
        first_line = text.strip().splitlines()[0] if text.strip() else "no message"
        raise BuildFailed(f"{self.label} failed: {name}: {first_line}", self._quoted()) from RuntimeError(trace)

    def _signal(self, number: signal.Signals) -> None:
        """Let a parked child go on, or stop it."""
        if self._parked and self._process.poll() is None:
            self._process.send_signal(number)

    def _crash(self) -> WorkerCrashed:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return WorkerCrashed(f"{self.label} was killed", "it most likely ran out of memory; give a smaller batch")
        how = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerCrashed(f"{self.label} {how}", self._quoted())

    def _quoted(self) -> str:
        """The last thing the child printed that looks like an error."""
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower() or "[E]" in line]
        return (
            f"its last words: {(errors or lines)[-1][:300]}" if lines else "it printed nothing; see 'dnexport doctor'"
        )

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        while (answer := _receive(self._process.stdout)) is not None:
            self._answers.put(answer)
        self._answers.put(None)


def _send(stream: IO[bytes], message: Any) -> None:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_HEADER.pack(len(body)))
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message, or None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    body = stream.read(length)
    return pickle.loads(body) if len(body) == length else None


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    held: Any = None
    while (message := _receive(requests)) is not None:
        kind, what, args = message
        try:
            if kind == "create":
                held, result = what(*args), None
            elif kind == "method":
                result = getattr(held, what)(*args)
            else:
                result = what(*args)
            _send(answers, ("result", result))
        except DnexportError as exc:
            _send(answers, ("refused", exc))
        except MemoryError:
            _send(answers, ("refused", WorkerCrashed("a worker ran out of memory", "give a smaller batch")))
        except Exception as exc:
            _send(answers, ("raised", (type(exc).__name__, str(exc), traceback.format_exc())))


def _main() -> None:
    # The terminal's Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)  # a shell's Ctrl-Z and 'fg' would let parked workers go on
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Vendor libraries print to file descriptor 1; the answers go to a private copy of it.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    # Run the imported module, not this second copy named __main__, so that classes are the same on both sides.
    importlib.import_module("dnexport.runtimes.isolate")._main()
