"""The base of all records, the one way to name what is wrong in one, and atomic writing."""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """An immutable value: unknown keys are refused, and equal content means equal records."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def content_digest(self) -> str:
        """SHA-256 of the canonical JSON form, the identity of this record in stage digests."""
        return digest_from_json(self.model_dump(mode="json"))


def digest_from_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order and white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_from_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    # Python 3.10 has no hashlib.file_digest.
    state = hashlib.sha256()
    while chunk := file.read(1 << 20):
        state.update(chunk)
    return state.hexdigest()


def nearest(name: str, known: Iterable[str]) -> str:
    """A ``did you mean`` clause, or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    # One that is much nearer than the others is meant.
    closeness = {each: difflib.SequenceMatcher(None, each, name).ratio() for each in near}
    near = [each for each in near if closeness[each] >= closeness[near[0]] - 0.2]
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"


def sentence_from_validation_error(error: ValidationError, fields: Iterable[str]) -> tuple[str, str]:
    """The first problem of a pydantic error as (what and where, what to do).

    ``fields`` are the dotted names that exist, for the suggestion after an unknown key.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}'", nearest(where, fields)
    if first["type"] == "missing":
        return f"key '{where}' is missing", "add it"
    problem = first["msg"].removeprefix("Value error, ")
    if not where:  # a rule about several keys, whose message says it all
        what, _, remedy = problem.partition("; ")
        return what, remedy or "change one of them"
    return f"key '{where}' is {first['input']!r}", problem[0].lower() + problem[1:]


def field_names(record: type[Record], prefix: str = "") -> list[str]:
    """The dotted names of all fields of a record, nested records included."""
    names = []
    for name, field in record.model_fields.items():
        names.append(prefix + name)
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, Record):
                names += field_names(candidate, f"{prefix}{name}.")
    return names


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a temporary sibling, flushed to the disk, then renamed.

    Raises:
        OSError: as the file system says; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
