"""What a pass is, and a frame that does not take its word for it.

A pass maps a model to (model, modified, reasons). It works in place; ``reasons`` say what it declined to rewrite and
why. The frame checks after every pass that the claim ``modified`` is true, that the model's inputs and outputs kept
their names, types and shapes unless the pass says otherwise, and that the graph is still valid ONNX.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from dnexport.errors import GraphError

INPUT = "input"


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        model: the same object that was passed in.
        modified: whether anything in it changed.
        reasons: what was declined, one sentence each, with the node's name.
        interface: whether inputs or outputs changed, which is what the pass is for.
    """

    model: ir.Model
    modified: bool
    reasons: tuple[str, ...] = ()
    interface: bool = False


@runtime_checkable
class Pass(Protocol):
    """A rewrite of a graph."""

    @property
    def name(self) -> str:
        """Snake case, the name of its file."""

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite ``model`` in place."""


@dataclass(frozen=True)
class Applied:
    """The record of one pass on one graph."""

    name: str
    modified: bool
    reasons: tuple[str, ...]


def apply(passes: Sequence[Pass], model: ir.Model) -> tuple[Applied, ...]:
    """Run passes in order, checking after each what it claims.

    Raises:
        GraphError: a pass broke the contract; the message names the pass and the ones before it.
    """
    applied: list[Applied] = []
    before = model_digest(model)
    signature = _signature(model)
    for each in passes:
        result = each(model)
        after = model_digest(model)
        _check_claim(each.name, applied, result, model, before == after, signature)
        applied.append(Applied(each.name, result.modified, result.reasons))
        before, signature = after, _signature(model)
    return tuple(applied)


def model_digest(model: ir.Model) -> str:
    """SHA-256 of the serialized graph, weights included."""
    proto = ir.to_proto(model)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def model_from_path(path: Path) -> ir.Model:
    """Read an ONNX file, and the files beside it that hold its weights where it names any.

    Raises:
        GraphError: missing, not an ONNX model, or without a file that it names.
    """
    with _reading(path):
        proto = onnx.load(path, load_external_data=False)
        _external_files(path, proto)
        onnx.load_external_data_for_model(proto, str(path.parent))
    if not proto.HasField("graph"):
        raise GraphError(f"graph {path} holds no ONNX graph", "export it again")
    return ir.from_proto(proto)


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, in order.

    Raises:
        GraphError: as `model_from_path`.
    """
    with _reading(path):
        return _external_files(path, onnx.load(path, load_external_data=False))


def _external_files(path: Path, proto: onnx.ModelProto) -> list[Path]:
    names = sorted({each for tensor in proto.graph.initializer for each in _external(tensor)})
    for name in names:
        if not (path.parent / name).is_file():
            raise GraphError(f"graph {path} keeps weights in {name}, which is not beside it", "copy that file too")
    return [path.parent / name for name in names]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise GraphError(f"graph {path} does not exist", "check the path") from exc
    except (DecodeError, OSError, onnx.checker.ValidationError) as exc:
        raise GraphError(f"graph {path} is not a readable ONNX model", "export it again") from exc


def _external(tensor: onnx.TensorProto) -> list[str]:
    """Names of the files in which a tensor's values lie."""
    return [entry.value for entry in tensor.external_data if entry.key == "location"]


def save_model(model: ir.Model, path: Path) -> None:
    """Write a model whose weights are inside of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(ir.to_proto(model), path)


def _check_claim(
    name: str, applied: list[Applied], result: PassResult, model: ir.Model, unchanged: bool, signature: list[str]
) -> None:
    history = f"pass '{name}' after [{', '.join(a.name for a in applied)}]"
    if result.model is not model:
        raise GraphError(f"{history} returned another model than it was given", "passes work in place")
    if result.modified == unchanged:
        claim, truth = ("modified", "equal") if result.modified else ("unmodified", "different")
        raise GraphError(f"{history} claims {claim}, but the graph is {truth}", "report this defect of dnexport")
    if ((now := _signature(model)) != signature) != result.interface:
        if result.interface:
            raise GraphError(f"{history} claims another interface and kept {now}", "report this defect of dnexport")
        raise GraphError(f"{history} changed the interface from {signature} to {now}", "report this defect of dnexport")
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=False)
    except onnx.checker.ValidationError as exc:
        first_line = str(exc).strip().splitlines()[0]
        raise GraphError(f"{history} left an invalid graph: {first_line}", "report this defect of dnexport") from exc


def _signature(model: ir.Model) -> list[str]:
    return [f"{value.name}:{value.dtype}:{value.shape}" for value in (*model.graph.inputs, *model.graph.outputs)]
