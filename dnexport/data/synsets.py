"""ImageNet's classes: WordNet ids, the line of each in a synset map as its index, and the answers of a flat val folder.

The map decides the index, so that a folder with some of the classes has the labels of the whole.
"""

import csv
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnexport.errors import DataError

LINES = ("LOC_synset_mapping.txt", "synset_words.txt")
INDEX = "imagenet_class_index.json"
SOLUTION = "LOC_val_solution.csv"
_ID = re.compile(r"n\d{8}", re.ASCII)
_EXAMPLE = "n01440764 tench, Tinca tinca"


@dataclass(frozen=True)
class Synsets:
    """A synset map.

    Attributes:
        file: it was read from, for messages.
        words: by index of the class, its WordNet id and its names, separated by commas.
    """

    file: str
    words: tuple[tuple[str, str], ...]

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """Of the class, by its WordNet id."""
        return {wnid: index for index, (wnid, _) in enumerate(self.words)}

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each class; two may share one, as the two cranes do."""
        return tuple(words.partition(",")[0].strip() for _, words in self.words)

    def text(self) -> str:
        """The map as `synsets_from_text` reads it."""
        return "".join(f"{wnid} {words}\n" for wnid, words in self.words)

    def misnamed(self, names: Sequence[str]) -> int | None:
        """The first class that a network of as many classes names otherwise; None where it means these.

        A name may be the WordNet id, one of the words or all of them. One that the map does not know says nothing
        (torchvision has names of its own), unless most are such.

        Args:
            names: of the network's classes.
        """
        known = [_names(wnid, words) for wnid, words in self.words]
        anywhere = set().union(*known)
        odd = [i for i, name in enumerate(names) if name.casefold() not in known[i]]
        if 2 * len(odd) > len(names):
            return odd[0]
        return next((i for i in odd if names[i].casefold() in anywhere), None)


def _names(wnid: str, words: str) -> set[str]:
    return {name.strip().casefold() for name in (wnid, words, f"{wnid} {words}", *words.split(","))}


def is_wordnet_id(name: str) -> bool:
    """Whether ``name`` has the form n01440764."""
    return _ID.fullmatch(name) is not None


def synsets_beside(folder: Path) -> Synsets | None:
    """The map in a folder or in the one above it; None where there is none.

    Raises:
        DataError: it is no map.
    """
    if (found := _beside(folder, (*LINES, INDEX))) is None:
        return None
    text = _text(found)
    return synsets_from_index(text, str(found)) if found.name == INDEX else synsets_from_text(text, str(found))


def synsets_from_text(text: str, file: str) -> Synsets:
    """A line a class, a WordNet id and its names: ``n01440764 tench, Tinca tinca``.

    Raises:
        DataError: no line, a malformed one, or an id that stands there twice.
    """
    words = []
    for number, line in enumerate(text.rstrip().splitlines(), start=1):
        wnid, _, names = line.strip().partition(" ")
        if not is_wordnet_id(wnid) or not names.partition(",")[0].strip():
            raise DataError(f"{file}, line {number}: {line[:80]!r} is no class", f"write it as {_EXAMPLE}")
        words.append((wnid, names.strip()))
    return _checked(words, file)


def synsets_from_index(text: str, file: str) -> Synsets:
    """``{"0": ["n01440764", "tench"], …}``, as it goes with torchvision's and Keras's weights.

    Raises:
        DataError: of another form, an index that is missing, or an id that stands there twice.
    """
    try:
        found = json.loads(text)
        words = [found[str(index)] for index in range(len(found))]
        pairs = [(str(wnid), str(name).replace("_", " ")) for wnid, name in words]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise DataError(f"{file} is no index of classes", 'write {"0": ["n01440764", "tench"], …}') from exc
    if odd := [wnid for wnid, name in pairs if not is_wordnet_id(wnid) or not name.strip()]:
        raise DataError(f"{file}: {odd[0][:80]!r} is no class", 'write {"0": ["n01440764", "tench"], …}')
    return _checked(pairs, file)


def _checked(words: list[tuple[str, str]], file: str) -> Synsets:
    seen: dict[str, int] = {}
    for number, (wnid, _) in enumerate(words, start=1):
        if wnid in seen:
            raise DataError(f"{file} has {wnid} as class {seen[wnid]} and as class {number}", "give each class once")
        seen[wnid] = number
    if not words:
        raise DataError(f"{file} has no classes", f"write a line a class, as {_EXAMPLE}")
    return Synsets(file, tuple(words))


def labels_from_folders(folders: Sequence[str], synsets: Synsets, where: str) -> list[int]:
    """The index of each class folder.

    Raises:
        DataError: folders that the map does not have.
    """
    if odd := [name for name in folders if name not in synsets.index]:
        what = f"{len(odd)} of {len(folders)} class folders of {where} are not in {synsets.file}: {', '.join(odd[:3])}"
        raise DataError(what, "give the map of that data, or move them elsewhere")
    return [synsets.index[name] for name in folders]


def solution_beside(folder: Path) -> Path | None:
    """Kaggle's table of the answers to the flat val folder, in it or above it."""
    return _beside(folder, (SOLUTION,))


def labels_from_solution(solution: Path, pictures: Sequence[Path], synsets: Synsets | None) -> list[int]:
    """The label of each picture: a line has its name and, before the boxes, its WordNet id.

    Raises:
        DataError: no synset map, a malformed line, a second one for a picture, an id that the map does not have, or
            pictures without a line.
    """
    if synsets is None:
        raise DataError(f"{solution} has no synset map beside it", f"put {LINES[0]} there")
    answers: dict[str, int] = {}
    for number, name, wnid in _answers(solution):
        if wnid not in synsets.index:
            raise DataError(f"{solution}, line {number}: {wnid} is not in {synsets.file}", "give the map of that data")
        if name in answers:
            raise DataError(f"{solution}, line {number}: a second line for {name}", "give each picture one line")
        answers[name] = synsets.index[wnid]
    if missing := [path.name for path in pictures if path.stem not in answers]:
        what = f"{len(missing)} of {len(pictures)} pictures have no line in {solution}: {', '.join(missing[:3])}"
        raise DataError(what, "give each picture its line")
    return [answers[path.stem] for path in pictures]


def _answers(solution: Path) -> Iterator[tuple[int, str, str]]:
    """Number of the line, picture, WordNet id."""
    rows = csv.reader(_text(solution).splitlines())
    if (heading := next(rows, [])) != ["ImageId", "PredictionString"]:
        what = f"{solution} has the heading {','.join(heading)[:80]!r}"
        raise DataError(what, "give Kaggle's table: ImageId,PredictionString")
    for number, row in enumerate(rows, start=2):
        wnid = row[1].partition(" ")[0] if len(row) == 2 else ""
        if not is_wordnet_id(wnid) or not row[0]:
            what = f"{solution}, line {number}: {','.join(row)[:80]!r} names no picture and class"
            raise DataError(what, "write it as ILSVRC2012_val_00000001,n01440764")
        yield number, row[0], wnid


def _beside(folder: Path, names: Sequence[str]) -> Path | None:
    places = (folder, folder.absolute().parent)
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{file} cannot be read as text", "write it as UTF-8 text") from exc
