import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnexport.data.datasets import images_from_folder, splits_from_source
from dnexport.data.imageset import ImageSet, nameless_classes
from dnexport.data.synsets import Synsets, synsets_from_index, synsets_from_text
from dnexport.errors import DataError
from dnexport.spec.preprocess import IMAGENET
from tests.conftest import SHARED

MAP = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn03710721 maillot, tank suit\n"
IDS = tuple(line.split()[0] for line in MAP.splitlines())

_wnids = st.integers(0, 99_999_999).map("n{:08}".format)
_words = st.text(st.characters(categories=("L", "N"), include_characters="-' ,"), min_size=1).map(str.strip)
_maps = st.lists(
    st.tuples(_wnids, _words.filter(lambda words: words.partition(",")[0].strip() != "")),
    min_size=1,
    unique_by=lambda pair: pair[0],
)


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / name / "0.png")
    return root


@given(_maps)
def test_a_map_reads_what_it_prints(words: list[tuple[str, str]]) -> None:
    synsets = Synsets("map", tuple(words))
    assert synsets_from_text(synsets.text(), "map") == synsets
    index = json.dumps({str(i): pair for i, pair in enumerate(words)})
    assert synsets_from_index(index, "map").words == tuple(words)
    assert [synsets.index[wnid] for wnid, _ in words] == list(range(len(words)))
    assert all(names and "," not in names for names in synsets.names)
    assert synsets.misnamed(synsets.names) is synsets.misnamed([wnid for wnid, _ in words]) is None


@given(st.text())
def test_any_other_text_is_a_map_or_refused(text: str) -> None:
    for parse in (synsets_from_text, synsets_from_index):
        try:
            synsets = parse(text, "map")
        except DataError as refused:
            assert str(refused).startswith("map")
        else:
            assert len(set(synsets.index)) == len(synsets.words) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "map has no classes; write a line a class, as n01440764 tench, Tinca tinca"),
        ("n01440764 tench\nn1440765 goldfish\n", "map, line 2: 'n1440765 goldfish' is no class; write it as n01440764"),
        ("n01440764\n", "map, line 1: 'n01440764' is no class"),
        ("n01440764 tench\n\nn01443537 goldfish", "map, line 2: '' is no class"),
        ("n01440764 tench\nn01440764 tench\n", "map has n01440764 as class 1 and as class 2; give each class once"),
    ],
)
def test_a_map_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        synsets_from_text(text, "map")


@pytest.mark.parametrize("text", ["[]", '{"0": ["n01440764"]}', '{"1": ["n01440764", "tench"]}', '{"0": ["x", "y"]}'])
def test_an_index_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r'^map.*; write (\{"0"|a line)'):
        synsets_from_index(text, "map")


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "synset_words.txt", "imagenet_class_index.json"])
@pytest.mark.parametrize("place", [".", ".."])
def test_some_folders_have_the_indices_of_the_whole_map(name: str, place: str, tmp_path: Path) -> None:
    data = folders(tmp_path / "data", IDS[3], IDS[1])
    index = {str(i): line.replace(" ", "_").split("_", 1) for i, line in enumerate(MAP.splitlines())}
    (data / place / name).write_text(json.dumps(index) if name.endswith("json") else MAP)
    images = images_from_folder(data)
    assert images.labels == (1, 3)
    assert images.classes == ("tench", "crane", "crane", "maillot")
    assert images.subset([1]).synsets == images.synsets


def test_names_need_no_map_to_be_folders(tmp_path: Path) -> None:
    """A map that lies about says nothing of folders with other names."""
    data = folders(tmp_path / "data", "cat", "dog")
    (tmp_path / "synset_words.txt").write_text(MAP)
    assert images_from_folder(data).classes == ("cat", "dog")


def test_a_folder_that_is_not_in_the_map_is_named(tmp_path: Path) -> None:
    data = folders(tmp_path, IDS[0], "n99999999", "odd")
    (tmp_path / "synset_words.txt").write_text(MAP)
    with pytest.raises(DataError, match=r"2 of 3 class folders of .* are not in .*synset_words.txt: n99999999, odd; "):
        images_from_folder(data)


def imagenet(synsets: Synsets | None, classes: tuple[str, ...] = IDS) -> ImageSet:
    names = synsets.names if synsets else classes
    return ImageSet("data", [], (), names, synsets=synsets)


@pytest.mark.parametrize(
    "names",
    [
        nameless_classes(4),
        IDS,
        ("tench", "crane", "crane", "maillot"),
        ("Tinca tinca", "crane", "crane", "tank suit"),
        tuple(MAP.splitlines()),
        tuple(line.split(" ", 1)[1] for line in MAP.splitlines()),
        ("tench", "crane", "crane bird", "maillot"),
    ],
)
def test_a_networks_classes_may_be_nameless_ids_or_words(names: tuple[str, ...]) -> None:
    imagenet(synsets_from_text(MAP, "map")).check_classes(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("crane", "tench", "crane", "maillot"), "data has class 'tench' where the network has 'crane'; name"),
        (("a", "b", "c", "d"), "data has class 'tench' where the network has 'a'"),
        (("tench",), "data data has 4 classes and the network 1"),
    ],
)
def test_other_classes_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        imagenet(synsets_from_text(MAP, "map")).check_classes(names)


def test_ids_without_a_map_ask_for_it() -> None:
    with pytest.raises(
        DataError, match=r"'n01440764' where the network has 'tench'; put LOC_synset_mapping\.txt beside"
    ):
        imagenet(None).check_classes(("tench", "crane", "crane", "maillot"))


def flat(root: Path, solution: str, count: int = 2) -> Path:
    (root / "val").mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (4, 4)).save(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    (root / "LOC_val_solution.csv").write_text(solution)
    (root / "LOC_synset_mapping.txt").write_text(MAP)
    return root / "val"


HEADING = "ImageId,PredictionString\n"
FIRST, SECOND = "ILSVRC2012_val_00000001,n03126707 1 2 3 4 \n", "ILSVRC2012_val_00000002,n01440764 5 6 7 8 n01440764 \n"


def test_the_flat_val_folder_has_the_labels_of_its_table(tmp_path: Path) -> None:
    images = images_from_folder(flat(tmp_path, HEADING + SECOND + FIRST + FIRST.replace("01,", "03,")))
    assert images.labels == (2, 0)
    assert len(images.classes) == 4


def test_kaggles_folders_and_its_flat_val_have_the_same_classes(tmp_path: Path) -> None:
    flat(tmp_path, HEADING + FIRST + SECOND)
    folders(tmp_path / "train", *IDS[1:])
    splits = splits_from_source(str(tmp_path))
    assert splits.train.classes == splits.test.classes
    assert (splits.train.labels, splits.test.labels) == ((1, 2, 3), (2, 0))


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        ("", "has the heading ''; give Kaggle's table: ImageId,PredictionString"),
        (HEADING + FIRST, r"1 of 2 pictures have no line in .*: ILSVRC2012_val_00000002\.JPEG; give each picture its"),
        (HEADING + FIRST + FIRST, "line 3: a second line for ILSVRC2012_val_00000001; give each picture one line"),
        (HEADING + FIRST + "a,b,c\n", "line 3: 'a,b,c' names no picture and class; write it as ILSVRC2012_val_0"),
        (HEADING + FIRST + "\n", "line 3: '' names no picture and class"),
        (HEADING + FIRST.replace("n0", "n9"), r"line 2: n93126707 is not in .*LOC_synset_mapping\.txt; give the map"),
    ],
)
def test_a_solution_that_does_not_fit_is_refused(solution: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        images_from_folder(flat(tmp_path, solution))


def test_a_solution_needs_a_map(tmp_path: Path) -> None:
    data = flat(tmp_path, HEADING + FIRST + SECOND)
    (tmp_path / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(DataError, match=r"LOC_val_solution.csv has no synset map beside it; put LOC_synset_mapping"):
        images_from_folder(data)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this checkout")
def test_a_hundred_real_classes_of_more(tmp_path: Path) -> None:
    """The sample's classes stand in a map between others; train/ and val/ have half of them each."""
    with tarfile.open(SHARED / "data" / "imagenet-sample-100.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    pictures = sorted(tmp_path.glob("*.JPEG"))
    assert len(pictures) == 100
    lines = []
    for number, picture in enumerate(pictures):
        wnid, _, name = picture.stem.partition("_")
        folder = tmp_path / ("train" if number % 2 else "val") / wnid
        folder.mkdir(parents=True)
        picture.rename(folder / picture.name)
        lines += [f"n{90_000_000 + number} none", f"{wnid} {name.replace('_', ' ')}"]
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")
    splits = splits_from_source(str(tmp_path))
    assert splits.train.classes == splits.test.classes
    assert splits.test.labels == tuple(range(1, 200, 4))
    assert splits.test.classes[1] == "tench"
    assert splits.test.subset(range(8)).pixels(IMAGENET).shape == (8, 224, 224, 3)
    one = images_from_folder(tmp_path / "val").subset([0])
    np.testing.assert_array_equal(one.truth(), [1])
