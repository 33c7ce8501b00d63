"""Calibration tables as files, refused where graph or preprocessing differ. Imports neither ONNX nor a runtime."""

from pathlib import Path

from pydantic import ValidationError

from dnexport.errors import DataError
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.quantization import CalibrationTable
from dnexport.spec.record import write_atomically


def save_table(table: CalibrationTable, path: Path) -> None:
    """Write a table as JSON, whole or not at all."""
    write_atomically(path, table.model_dump_json(indent=1).encode() + b"\n")


def table_from_path(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        DataError: missing, or not a calibration table.
    """
    try:
        return CalibrationTable.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise DataError(f"calibration table {path} cannot be read", "run 'dnexport calibrate'") from exc
    except ValidationError as exc:
        raise DataError(
            f"calibration table {path} is not a calibration table", "run 'dnexport calibrate' again"
        ) from exc


def check_table(table: CalibrationTable, graph_digest: str, preprocess: Preprocess) -> None:
    """Refuse a table of another graph or other preprocessing.

    Raises:
        DataError: either differs.
    """
    if table.graph_digest != graph_digest:
        raise DataError(
            f"the calibration table is of graph {table.graph_digest[:12]}, this graph is {graph_digest[:12]}",
            "calibrate this graph: 'dnexport calibrate'",
        )
    if table.preprocess_digest != preprocess.content_digest():
        raise DataError(
            "the calibration table was made with other preprocessing", "calibrate again: 'dnexport calibrate'"
        )
