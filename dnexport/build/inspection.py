"""What a checkpoint is, as ``dnexport inspect`` says it."""

from collections import Counter
from pathlib import Path
from typing import Any

from dnexport.build.network import Source, network_from_source
from dnexport.models.zoo import recognised_from_file
from dnexport.spec.archs import NAMED, FamilyArch
from dnexport.spec.recipe import Recipe
from dnexport.spec.record import digest_from_file


def inspection(path: Path) -> dict[str, Any]:
    """Layout, network, ends, preprocessing and digest of a checkpoint that fills its network strictly.

    Raises:
        CheckpointError: unreadable, of no known layout, or not strictly filling a network.
    """
    found = recognised_from_file(path)
    network = network_from_source(Recipe(name="inspected", weights=str(path)), Source("file", path))
    metadata = found.metadata
    return {
        "file": str(path),
        "digest": digest_from_file(path),
        "layout": found.layout,
        "arch": str(found.arch),
        "name": _name(found.arch),
        "parameters": found.arch.parameters,
        "macs": found.arch.macs(*network.preprocess.input_size),
        "classes": found.arch.classes,
        "channels": found.arch.channels,
        "multi_label": found.multi_label,
        "aside": list(found.aside),
        "preprocess": network.preprocess.model_dump(mode="json"),
        "evaluation": network.preprocess.evaluation,
        "assumed": list(network.assumed),
        "class_names": list(metadata.class_names) if metadata else None,
        "test_top1": metadata.test_top1 if metadata else None,
    }


def graph_inspection(path: Path) -> dict[str, Any]:
    """What an ONNX graph holds, and what in it will hurt in INT8 or on TensorRT.

    Raises:
        GraphError: missing, or not an ONNX model.
    """
    from dnexport.graph.contract import model_from_path
    from dnexport.graph.inspect import findings

    model = model_from_path(path)
    counts = Counter(node.op_type for node in model.graph)
    return {
        "file": str(path),
        "digest": digest_from_file(path),
        "opset": model.opset_imports.get("", 0),
        "operators": dict(counts.most_common()),
        "findings": [finding._asdict() for finding in findings(model)],
    }


def _name(arch: FamilyArch) -> str | None:
    """The published name of a network with this body."""
    return next((name for name, named in NAMED.items() if named.arch.same_body(arch)), None)
