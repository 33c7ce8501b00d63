"""The program's first module: the script ``dnexport``, ``python -m dnexport`` and ``python -m dnexport.cli``.

It handles Ctrl-C and looks at the system before it imports anything else. From here on an interrupt is one
sentence and exit code 130, wherever it arrives: in an import, in the options, or in a command, whose ``terminal`` has a
handler of its own.
"""

import os
import sys

_INTERRUPTED_EXIT_CODE = 130  # as in errors.py, which is not imported yet
_INTERRUPTED = b"interrupted; nothing was replaced\n"  # as terminal.py says it
_INTERRUPTED_DOCUMENT = (
    b'{"schema": 1, "status": "failed", "error": {"class": "Interrupted", "message": "interrupted", "remedy": ""}}\n'
)
_MACHINES = ("x86_64", "aarch64")


def main() -> None:
    """Run the program; it ends with the exit code of what happened."""
    try:
        _leave_on_interrupt()
        _refuse_other_systems()
        from dnexport.cli.main import main as run

        run()
    except KeyboardInterrupt:
        _leave()


def _leave_on_interrupt() -> None:
    """Whoever imports may swallow an exception or turn it into another, so the handler raises none."""
    import atexit
    import signal

    def interrupt(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        _leave()

    # A shell starts what it puts in the background with Ctrl-C ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
        # Python gives SIGINT back to the system when it ends, which would kill the program without a word.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _leave() -> None:
    """End at once: nothing has begun that must be put away."""
    for file, words in ((2, _INTERRUPTED), (1, _INTERRUPTED_DOCUMENT if "--json" in sys.argv else b"")):
        try:
            os.write(file, words)
        except OSError:
            continue  # nobody reads it
    os._exit(_INTERRUPTED_EXIT_CODE)


def _refuse_other_systems() -> None:
    """Before packages are imported that may not exist for the system; help and the version work everywhere."""
    import platform

    system, machine = sys.platform, platform.machine()
    if (system == "linux" and machine in _MACHINES) or not {"--help", "--version"}.isdisjoint(sys.argv):
        return
    import json

    from dnexport.errors import TargetUnavailable

    error = TargetUnavailable(
        f"dnexport runs on Linux on {' and '.join(_MACHINES)}, and this system is {system} on {machine or 'unknown'}",
        "run it on such a machine, in a container or under WSL",
    )
    sys.stderr.write(f"error: {error}\n")
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"schema": 1, "status": "failed", "error": error.document()}) + "\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
