"""What a device does with the bundles beside this file: each command in a process of its own, then the session.

`run.sh` starts it in the emulated root. It shows no times: an emulator's say nothing about a processor's.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from dnexport.bundle.verify import Bundle
from dnexport.errors import DnexportError
from dnexport.measure.accuracy import snr_db
from dnexport.runtimes.registry import open_session, session_options
from dnexport.spec.metrics import decibel_text
from dnexport.spec.report import report_from_file
from dnexport.spec.target import Target

HERE = Path(__file__).resolve().parent
BUNDLES = ("fp16", "int8")
PICTURES = 4
OPENVINO = "openvino:cpu"
UNTOLD = "–"
LAYERS = ("Convolution", "Concatenation", "FullyConnected")

Cells = TypeVar("Cells", bound=Sequence[object])


class Row(NamedTuple):
    """What one command said of one engine; the exit code is 1 too where its answers are wrong."""

    bundle: str
    target: str
    command: str
    executed: str
    against_pytorch: str
    exit_code: int


def main(targets: list[str]) -> int:
    """Print the tables; 1 where a command failed or answered wrongly."""
    rows = (row for bundle in BUNDLES for target in targets for row in rows_of(bundle, target))
    shown = show(("Bundle", "Target", "Command", "Executed", "Against PyTorch", "Exit code"), rows)
    if OPENVINO in targets:
        show(("Bundle", "Layer", "OpenVINO's kernel", "Number"), (row for bundle in BUNDLES for row in kernels(bundle)))
    return int(any(row.exit_code for row in shown))


def rows_of(bundle: str, target: str) -> Iterator[Row]:
    """A row a command."""
    code, told = run("check", bundle, "--target", target)
    yield Row(bundle, target, "check", UNTOLD, decibels(told, target, "self_test"), code)
    code, told = run("compile", bundle, "--target", target)
    executed = found(told, "targets", target, "executed_precision") or UNTOLD
    yield Row(bundle, target, "compile", executed, decibels(told, "targets", target, "accuracy"), code)
    output = HERE / f"{bundle}-{Target.parse(target).slug}.json"
    code, told = run("validate", bundle, "--target", target, "--output", str(output))
    executed = str(report_from_file(output).bundles[0].targets[target].executed_precision) if code == 0 else UNTOLD
    yield Row(bundle, target, "validate", executed, decibels(told, target), code)
    yield predicted(bundle, target)
    yield answered(bundle, target)


def predicted(bundle: str, target: str) -> Row:
    """``dnexport predict`` of some golden samples; right where it names PyTorch's class of each."""
    opened = Bundle.open(HERE / bundle)
    golden, names = opened.golden(), opened.manifest.class_names
    pictures = [HERE / f"{index}.png" for index in range(PICTURES)]
    for path, pixels in zip(pictures, golden.images, strict=False):
        Image.fromarray(pixels.squeeze()).save(path)
    code, told = run("predict", bundle, *map(str, pictures), "--target", target)
    expected = [names[index] for index in golden.logits[:PICTURES].argmax(1)]
    agree = sum(found(told, str(path), 0, "name") == name for path, name in zip(pictures, expected, strict=True))
    return Row(bundle, target, "predict", UNTOLD, f"{agree} of {PICTURES} agree", code or int(agree < PICTURES))


def answered(bundle: str, target: str) -> Row:
    """All golden samples through ``Bundle.session``, in this process."""
    opened = Bundle.open(HERE / bundle)
    golden = opened.golden()
    try:
        with opened.session(target) as session:
            logits = session(golden.images)
    except DnexportError as exc:
        print(f"session of {bundle} on {target}: {exc}", file=sys.stderr)
        return Row(bundle, target, "session", UNTOLD, UNTOLD, exc.exit_code)
    wrong = bool((logits.argmax(1) != golden.logits.argmax(1)).any())
    return Row(bundle, target, "session", UNTOLD, decibel_text(snr_db(golden.logits, logits)), int(wrong))


def kernels(bundle: str) -> Iterator[tuple[str, str, str, int]]:
    """The kernels that OpenVINO chose for the layers that do the work, as its compiled model names them."""
    opened, target = Bundle.open(HERE / bundle), Target.parse(OPENVINO)
    engine, recipe = opened.engine(str(target)), opened.manifest.recipe
    if engine is None:
        return
    session = open_session(engine, target, session_options(recipe.precision, target, recipe.allow_execution))
    nodes = [node.get_rt_info() for node in session.compiled(1).get_runtime_model().get_ops()]
    session.close()
    counted = Counter((told["layerType"].astype(str), told["primitiveType"].astype(str)) for told in nodes)
    yield from ((bundle, *kind, number) for kind, number in sorted(counted.items()) if kind[0] in LAYERS)


def run(command: str, bundle: str, *arguments: str) -> tuple[int, Any]:
    """The exit code of a command and its JSON document; what it says to people is shown where it fails."""
    line = [sys.executable, "-m", "dnexport.cli", command, str(HERE / bundle), *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return done.returncode, json.loads(done.stdout or "{}")


def found(document: Any, *keys: str | int) -> Any:
    """What lies below keys of a document; None where a failed command has not told it."""
    for key in keys:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def decibels(document: Any, *keys: str) -> str:
    """The signal-to-noise ratio below keys of a document."""
    told = found(document, *keys)
    return UNTOLD if told is None else decibel_text(told["snr_db"])


def show(heading: Sequence[str], rows: Iterable[Cells]) -> list[Cells]:
    """Print a table in Markdown, each row as soon as it is there."""
    shown = []
    for line in (heading, ["---"] * len(heading)):
        print_row(line)
    for row in rows:
        print_row(row)
        shown.append(row)
    print()
    return shown


def print_row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
