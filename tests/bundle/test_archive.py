"""An archive of a bundle: the same bytes every time, and nothing hostile gets as far as the disk."""

import errno
import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnexport.bundle import archive as archives
from dnexport.bundle.archive import check_archive, unpack_archive, write_archive
from dnexport.bundle.pack import ARCHIVE_SUFFIXES, MANIFEST, write_manifest
from dnexport.bundle.verify import Bundle
from dnexport.errors import BadInput, IntegrityError, StorageError, UsageError
from tests.bundle.test_bundle import manifest, write_bundle

Tree = dict[str, Any]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0\\:"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)
TREES = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=2000), max_size=4),
    lambda trees: st.dictionaries(NAMES, st.binary(max_size=600) | trees, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def write_tree(tree: Tree, folder: Path) -> None:
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            write_tree(content, folder / name)
        else:
            (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unpacked(archive: Path, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    unpack_archive(archive, folder)
    return contents(folder)


Member = tuple[str, bytes] | tarfile.TarInfo


def written(archive: Path, members: list[Member], **options: Any) -> Path:
    """An archive as somebody else may write it."""
    with tarfile.open(archive, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(bytes(max(0, min(member.size, 1 << 16)))))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return archive


def refused(archive: Path, match: str) -> None:
    """Before anything is written."""
    folder = archive.with_name("unpacked")
    folder.mkdir()
    with pytest.raises(IntegrityError, match=match):
        unpack_archive(archive, folder)
    assert not list(folder.iterdir())
    folder.rmdir()


GOOD: list[Member] = [("b/bundle.json", b"{}"), ("b/model.onnx", b"model"), ("b/targets/x/report.json", b"{}")]


@given(tree=TREES, suffix=st.sampled_from(ARCHIVE_SUFFIXES))
def test_any_tree_comes_back(tree: Tree, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, archive = Path(scratch) / "tree", Path(scratch) / f"a{suffix}"
        write_tree({name: each for name, each in tree.items() if name != MANIFEST}, folder)
        write_archive(Bundle(folder, write_manifest(folder, manifest()), {}), archive)
        assert unpacked(archive, Path(scratch) / "unpacked") == contents(folder)


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_two_runs_give_the_same_bytes(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    write_archive(bundle, tmp_path / f"a{suffix}")
    shutil.copytree(bundle.path, tmp_path / "later")
    for path in (tmp_path / "later").rglob("*"):
        os.utime(path, (10, 10))
        path.chmod(0o700)
    mask = os.umask(0o077)
    try:
        write_archive(Bundle.open(tmp_path / "later"), tmp_path / f"another name{suffix}")
    finally:
        os.umask(mask)
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert (tmp_path / f"another name{suffix}").read_bytes() == content
    assert (content[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff") == (suffix == ".tar.gz"), "neither name nor time"


def test_the_members_are_nobodys_and_of_no_time(bundle: Bundle, tmp_path: Path) -> None:
    write_archive(bundle, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(f"tiny/{name}" for name in (*bundle.manifest.files, MANIFEST))
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    with gzip.open(tmp_path / "b.tar.gz", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    assert unpacked(tmp_path / "b.tar.gz", tmp_path / "u") == contents(bundle.path)


def test_an_archive_by_tar_itself_is_good_too_without_its_modes_and_owners(bundle: Bundle, tmp_path: Path) -> None:
    """It holds folders, owners and times."""
    (bundle.path / "model.onnx").chmod(0o4777)
    command = ["tar", "-C", str(tmp_path), "-czf", str(tmp_path / "a.tar.gz"), "bundle"]
    subprocess.run(command, check=True, capture_output=True)
    assert unpacked(tmp_path / "a.tar.gz", tmp_path / "u") == contents(bundle.path)
    assert (tmp_path / "u" / "model.onnx").stat().st_mode & 0o7111 == 0


def test_only_an_archive_of_a_bundle_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    output = tmp_path / "a.tar"
    write_archive(bundle, output)
    before = output.read_bytes()
    write_archive(bundle, output)
    assert output.read_bytes() == before
    write_archive(bundle, tmp_path / "link.tar.gz")
    others: dict[str, Callable[[Path], Any]] = {
        "text.tar": lambda path: path.write_text("years of work"),
        "other.tar": lambda path: written(path, [("b/thesis.tex", b"years of work")]),
        "folder.tar": lambda path: path.mkdir(),
        "link.tar": lambda path: path.symlink_to(output),
    }
    for name, make in others.items():
        make(tmp_path / name)
        with pytest.raises(UsageError, match=rf"{name} exists and is no archive of a bundle; choose another --output"):
            write_archive(bundle, tmp_path / name)
    assert (tmp_path / "text.tar").read_text() == "years of work"
    with pytest.raises(UsageError, match=r"end it in \.tar or \.tar\.gz"):
        write_archive(bundle, tmp_path / "a.zip")


@pytest.mark.parametrize(("code", "match"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "writable file system")])
def test_a_full_or_read_only_disk_leaves_the_earlier_archive(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, match: str
) -> None:
    output = tmp_path / "out" / "a.tar.gz"
    write_archive(bundle, output)
    before = output.read_bytes()

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=match):
        write_archive(bundle, output)
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["a.tar.gz"]


def test_what_a_killed_process_left_is_removed(bundle: Bundle, tmp_path: Path) -> None:
    left = tmp_path / "out" / ".a.tar.999999999.partial"
    left.mkdir(parents=True)
    (left / "a.tar").write_bytes(b"half")
    write_archive(bundle, tmp_path / "out" / "a.tar")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tar"]


HOSTILE = {
    "absolute": "/etc/passwd",
    "above": "../outside",
    "above later": "b/x/../../../outside",
    "here": "./b/x",
    "empty part": "b//x",
    "other folder": "c/x",
    "no folder": "x",
    "backslash": "b\\..\\x",
    "drive": "b/C:x",
    "not utf-8": "b/\udcff",
    "long part": "b/" + "x" * 300,
    "long": "b/" + "/".join(["x" * 200] * 6),
    "twice": "b/model.onnx",
    "a file as a folder": "b/model.onnx/x",
    "a folder as a file": "b/targets",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@given(place=st.integers(1, len(GOOD)), form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_a_hostile_name_is_refused_by_name(name: str, place: int, form: int) -> None:
    at = len(GOOD) if name.startswith(("b/model", "b/targets")) else place
    with tempfile.TemporaryDirectory() as scratch:
        members = [*GOOD[:at], (name, b"x"), *GOOD[at:]]
        refused(written(Path(scratch) / "a.tar", members, format=form), "it holds ")
        with pytest.raises(IntegrityError) as caught:
            check_archive(Path(scratch) / "a.tar")
        assert ascii(name)[:200] in caught.value.message


@given(
    parts=st.lists(st.sampled_from(["..", ".", "", "a", "b"]) | NAMES, min_size=1, max_size=4).filter(
        lambda parts: any(part in ("", ".", "..") for part in parts[:-1]) or parts[-1] in (".", "..")
    )
)
def test_no_name_leads_elsewhere(parts: list[str]) -> None:
    """A slash at the end is left out of this: the library takes it off."""
    with tempfile.TemporaryDirectory() as scratch:
        refused(written(Path(scratch) / "a.tar", [*GOOD, ("/".join(parts), b"x")]), "it holds ")


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("b/x")
    info.pax_headers = {"path": "b/x\0y"}
    refused(written(tmp_path / "a.tar", [*GOOD, info]), r"it holds 'b/x\\x00y', a name that not every system can write")


KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CONTTYPE: "neither a file nor a folder",
    b"Z": "neither a file nor a folder",
}


@pytest.mark.parametrize("kind", KINDS, ids=ascii)
def test_only_files_and_folders_are_taken(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("b/x")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(written(tmp_path / "a.tar", [*GOOD, info]), f"it holds 'b/x', {KINDS[kind]}; copy the archive again")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """Its size is not that of its data."""
    info = tarfile.TarInfo("b/x")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1", "GNU.sparse.numblocks": "1"}
    refused(written(tmp_path / "a.tar", [*GOOD, info]), "it holds 'b/x', neither a file nor a folder")


def sized(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def header_only(path: Path, info: tarfile.TarInfo) -> Path:
    """Of an archive that claims more than it holds."""
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return path


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = sized("b/x", archives.LARGEST_FILE + 1)
    refused(header_only(tmp_path / "a.tar", huge), "it holds 'b/x', 4294967297 bytes, where 4294967296 are the most")
    monkeypatch.setattr(archives, "LARGEST_SUM", 20)
    refused(written(tmp_path / "a.tar", [*GOOD, ("b/y", bytes(12))]), "'b/y', with which it is larger than 20 bytes")
    monkeypatch.setattr(archives, "MOST_FILES", 8)
    many: list[Member] = [(f"b/{i}", b"") for i in range(9)]
    refused(written(tmp_path / "a.tar", many), "with which it has more than 8 files")
    folder = tarfile.TarInfo("b")
    folder.type = tarfile.DIRTYPE
    refused(written(tmp_path / "a.tar", [folder] * 9), "with which it has more than 8 files")


def test_a_bundle_beyond_the_limits_is_not_packed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGEST_SUM", 20)
    with pytest.raises(IntegrityError, match="with which it is larger than 20 bytes"):
        write_archive(bundle, tmp_path / "a.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME], ids=ascii)
def test_a_header_that_claims_a_gigabyte_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """The standard library would allocate it; a compressed archive of zeros holds it in a megabyte."""
    info = sized("b/x", 1 << 30)
    info.type = kind
    refused(header_only(tmp_path / "a.tar", info), "a header claims 1073741824 bytes")


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (tarfile.REGTYPE, "it holds 'b/x', -4096 bytes"),
        (tarfile.DIRTYPE, "it holds 'b/x', -4096 bytes"),
        (tarfile.SYMTYPE, "it holds 'b/x', a symbolic link"),
        (tarfile.XHDTYPE, "a header claims -4096 bytes"),
    ],
    ids=ascii,
)
def test_a_negative_size_does_not_lead_backwards_for_ever(tmp_path: Path, kind: bytes, match: str) -> None:
    """CVE-2025-8194 of the standard library; Python 3.10 has it."""
    info = sized("b/x", 0)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xf0\x00"  # -4096 in base 256
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(1024))
    refused(tmp_path / "a.tar", match)


def test_headers_upon_headers_are_refused(tmp_path: Path) -> None:
    """Each is read inside of the one before it."""
    info = sized("x", 10)
    info.type = tarfile.XGLTYPE
    content = b"10 a=bbbb\n".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes((info.tobuf(tarfile.USTAR_FORMAT) + content) * 3000 + bytes(1024))
    refused(tmp_path / "a.tar", "recursion")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_what_is_cut_off_anywhere_is_refused(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    write_archive(bundle, tmp_path / f"a{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    whole = len(content) if suffix == ".tar.gz" else len(content.rstrip(b"\0")) - 512
    for length in {*range(0, whole, max(1, whole // 60)), 1, 2, whole - 1}:
        (tmp_path / "cut").write_bytes(content[:length])
        refused(tmp_path / "cut", "is no archive of a bundle: ")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@given(damage=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_whatever_is_damaged_it_is_refused_or_whole(suffix: str, damage: list[tuple[int, int]]) -> None:
    """Nothing else is raised, and nothing is written elsewhere; the digests see what the headers do not."""
    with tempfile.TemporaryDirectory() as scratch:
        write_bundle(Path(scratch) / "bundle")
        archive = Path(scratch) / f"a{suffix}"
        write_archive(Bundle.open(Path(scratch) / "bundle"), archive)
        content = bytearray(archive.read_bytes())
        for place, byte in damage:
            content[place % len(content)] = byte
        archive.write_bytes(content)
        (Path(scratch) / "folder").mkdir()
        try:
            unpack_archive(archive, Path(scratch) / "folder")
            Bundle.open(Path(scratch) / "folder")
        except (IntegrityError, BadInput):
            pass
        else:
            assert contents(Path(scratch) / "folder") == contents(Path(scratch) / "bundle")
        assert {path.name for path in Path(scratch).iterdir()} == {"bundle", "folder", archive.name}


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    archive = written(tmp_path / "a.tar", GOOD)
    content = archive.read_bytes()
    archive.write_bytes(content + bytes(512))
    check_archive(archive)
    archive.write_bytes(content + b"x")
    refused(archive, "something follows its end")
    archive.write_bytes(content + bytes(2 << 20))
    refused(archive, "something follows its end")


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    refused(written(tmp_path / "a.tar", GOOD[1:]), r"it holds no bundle\.json")
    refused(written(tmp_path / "a.tar", [("b/x/bundle.json", b"{}")]), r"it holds no bundle\.json")
    refused(
        written(tmp_path / "a.tar", [("bundle.json", b"{}")]), r"it holds 'bundle\.json', a file outside of a folder"
    )
    (tmp_path / "a.tar").write_text("a text of its own")
    refused(tmp_path / "a.tar", "is no archive of a bundle: ")
    with pytest.raises(BadInput, match="no such file"):
        check_archive(tmp_path / "none.tar")
