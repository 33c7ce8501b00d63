"""Fleets: a name for the targets of a kind of device, ``@rtx-ada``, read from ``fleets.toml``."""

import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError, field_validator

from dnexport.errors import DnexportError, RecipeError, UsageError
from dnexport.spec.record import Record, nearest, sentence_from_validation_error
from dnexport.spec.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SIGN = "@"
# In a wheel the file lies beside this one; in a clone it is with the recipes.
_SHIPPED = (Path(__file__).parent / "fleets.toml", Path(__file__).parents[2] / "engines" / "fleets.toml")


class Fleet(Record):
    """Devices of a kind.

    Attributes:
        about: what they are.
        targets: what they run.
    """

    about: str
    targets: tuple[str, ...]

    @field_validator("targets")
    @classmethod
    def _parse(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not texts:
            raise ValueError("a fleet has at least one target")
        try:
            return tuple(str(Target.parse(text)) for text in texts)
        except DnexportError as exc:
            raise ValueError(str(exc)) from exc


def fleets(here: Path) -> dict[str, Fleet]:
    """The fleets that ship with dnexport, and on top those of ``engines/fleets.toml`` below ``here``.

    Raises:
        RecipeError: a file that is not what it should be.
    """
    own = here / "engines" / "fleets.toml"
    files = [next(file for file in _SHIPPED if file.is_file()), *([own] if own.exists() else [])]
    return {name: fleet for file in files for name, fleet in _fleets_from_toml(file).items()}


def expanded(targets: Iterable[str], here: Path) -> tuple[str, ...]:
    """Targets with each ``@fleet`` replaced by its own.

    Raises:
        UsageError: no such fleet.
        RecipeError: a fleets file that is not what it should be.
    """
    found: list[str] = []
    for text in targets:
        if not text.startswith(SIGN):
            found.append(text)
            continue
        known, name = fleets(here), text.removeprefix(SIGN)
        if name not in known:
            raise UsageError(f"there is no fleet '{text}'", nearest(text, [SIGN + each for each in known]))
        found += known[name].targets
    return tuple(found)


def _fleets_from_toml(file: Path) -> dict[str, Fleet]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise RecipeError(f"fleets {file} cannot be read: {(exc.strerror or str(exc)).lower()}", "check it") from exc
    except ValueError as exc:
        raise RecipeError(f"fleets {file} is not TOML: {exc}", "correct that line") from exc
    read = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            what = f"{file}: fleet {name} is not a table"
            raise RecipeError(what, f'write [{name}], and below it about = "…" and targets = ["…"]')
        try:
            read[name] = Fleet.model_validate(table)
        except ValidationError as exc:
            what, remedy = sentence_from_validation_error(exc, list(Fleet.model_fields))
            raise RecipeError(f"{file}: fleet {name}: {what}", remedy) from exc
    return read
