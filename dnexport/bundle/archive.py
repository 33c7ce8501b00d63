"""A bundle as one file: a tar archive, compressed or not, that has the same bytes whoever writes it and whenever.

An archive that is read comes from anywhere. All of it is looked at before the first byte is written, by the rules of
`_Inventory`; what is written then are regular files under names of their own, with none of the archive's owners, modes
and times. The files are still not trusted: `Bundle.open` checks their digests.
"""

import contextlib
import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from dnexport.bundle.pack import ARCHIVE_SUFFIXES, MANIFEST, check_outside_bundles
from dnexport.bundle.verify import Bundle
from dnexport.errors import IntegrityError, UsageError, error_from_os_error
from dnexport.runtimes.scratch import held, remove_abandoned, siblings

# What a bundle may hold: the largest plan is far below the one, a golden set and a dozen targets below the others.
LARGEST_FILE = 4 << 30
LARGEST_SUM = 8 << 30
MOST_FILES = 10_000
_LONGEST_NAME, _LONGEST_PART = 1024, 255
# Headers are shorter and files are read in pieces of this size; the end of an archive may be padded up to the other.
_LARGEST_READ, _LONGEST_TAIL = 64 << 10, 1 << 20
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE), "a device"),
    tarfile.FIFOTYPE: "a FIFO",
}
_DAMAGE = (ArithmeticError, LookupError, RecursionError, ValueError)  # what odd headers make tarfile raise
_REMEDY = "copy the archive again, or make it again with 'dnexport package'"


def write_archive(bundle: Bundle, output: Path) -> None:
    """Write ``output`` whole or not at all: files by name, below one folder named as the bundle.

    Raises:
        UsageError: another suffix than `ARCHIVE_SUFFIXES`, or the output is no archive of a bundle.
        IntegrityError: the bundle is beyond the limits, and could not be unpacked again.
        StorageError: the file system refuses.
    """
    if not output.name.endswith(ARCHIVE_SUFFIXES):
        raise UsageError(
            f"output {output} does not say which archive it is", f"end it in {' or '.join(ARCHIVE_SUFFIXES)}"
        )
    check_outside_bundles(output)
    _check_replaceable(output)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(siblings(output, "partial"))
        with held(temporary), (temporary / output.name).open("wb") as file:
            _write(bundle, file, compress=output.name.endswith(".gz"))
            file.flush()
            os.fsync(file.fileno())
            (temporary / output.name).replace(output)
    except OSError as exc:
        raise error_from_os_error(exc, output) from exc


def unpack_archive(archive: Path, folder: Path) -> None:
    """Write the files of an archive into an empty ``folder``, without the archive's top folder.

    Raises:
        IntegrityError: it is no whole archive of a bundle, or holds what a bundle never does; nothing is written then.
        DnexportError: it cannot be read.
        OSError: the folder cannot be written to.
    """
    check_archive(archive)
    with _opened(archive) as file, _refusing(archive):
        for name, size in _files(archive, file):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as copy:
                _copy(file, copy, size)


def check_archive(archive: Path) -> None:
    """Look at all of an archive.

    Raises:
        IntegrityError: it is no whole archive of a bundle, or holds what a bundle never does.
        DnexportError: it cannot be read.
    """
    with _opened(archive) as file, _refusing(archive):
        names = [name for name, _ in _files(archive, file)]
    if MANIFEST not in names:
        raise _refusal(archive, f"it holds no {MANIFEST}")


class _Inventory:
    """What was seen of an archive so far: one folder of regular files with plain names, within the limits."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._members = self._bytes = 0

    def admit(self, member: tarfile.TarInfo) -> str | None:
        """The place of a file below the top folder; None for a folder.

        Raises:
            IntegrityError: by name, what it is and why that is refused.
        """
        name, parts = member.name, member.name.split("/")
        if reason := self._wrong_name(name, parts) or self._wrong_content(member):
            raise _refusal(self._archive, f"it holds {ascii(name)[:200]}, {reason}")
        self._members += 1
        above = {"/".join(parts[:length]) for length in range(1, len(parts))}
        if name in self._files or above & self._files or (not member.isdir() and name in self._folders):
            raise _refusal(self._archive, f"it holds {ascii(name)[:200]} twice, or as a file and as a folder")
        self._folders |= above
        (self._folders if member.isdir() else self._files).add(name)
        self._bytes += member.size
        return None if member.isdir() else "/".join(parts[1:])

    def _wrong_name(self, name: str, parts: list[str]) -> str:
        # What is no UTF-8 was read as surrogates, and encodes to something else.
        if any(character in name for character in "\0\\:") or name.encode(errors="replace").decode() != name:
            return "a name that not every system can write"
        if any(part in ("", ".", "..") for part in parts):
            return "a name that leads elsewhere"
        if len(name.encode()) > _LONGEST_NAME or any(len(part.encode()) > _LONGEST_PART for part in parts):
            return "a name that is too long"
        top = next(iter(self._folders)).partition("/")[0] if self._folders else parts[0]
        return "" if parts[0] == top else f"a name outside of its first folder {top!a}"

    def _wrong_content(self, member: tarfile.TarInfo) -> str:
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
            return _KINDS.get(member.type, "neither a file nor a folder")
        if "/" not in member.name and not member.isdir():
            return "a file outside of a folder"
        if not 0 <= member.size <= LARGEST_FILE:
            return f"{member.size} bytes, where {LARGEST_FILE} are the most"
        if self._bytes + member.size > LARGEST_SUM:
            return f"with which it is larger than {LARGEST_SUM} bytes"
        if self._members + len(self._folders) >= MOST_FILES:
            return f"with which it has more than {MOST_FILES} files"
        return ""


class _Guarded:
    """What ``tarfile`` reads through: it would allocate whatever a header claims.

    Attributes:
        last: what was read last; the end of an archive is a block of zeros.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """At most as much as any honest header needs."""
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        """To the next header: forwards, for no size is negative that `_Inventory` admits."""
        return self._file.seek(position)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


def _files(archive: Path, file: io.BufferedIOBase) -> Iterator[tuple[str, int]]:
    """Place and size of each file, ``file`` standing at its first byte; then the end is checked."""
    inventory, guarded = _Inventory(archive), _Guarded(file)
    tar = tarfile.TarFile(fileobj=cast(IO[bytes], guarded), mode="r", encoding="utf-8", errors="surrogateescape")
    while (member := tar.next()) is not None:
        place = inventory.admit(member)
        if place is not None:
            yield place, member.size
    if guarded.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut off or damaged")
    tail = file.read(_LONGEST_TAIL + 1)  # to the end, for there gzip has its checksum
    if len(tail) > _LONGEST_TAIL or tail.strip(b"\0"):
        raise tarfile.ReadError("something follows its end")


def _write(bundle: Bundle, file: io.BufferedIOBase, *, compress: bool) -> None:
    inventory, name = _Inventory(bundle.path), bundle.manifest.recipe.name
    # Neither a file name nor a time goes into the header of gzip.
    packing = gzip.GzipFile("", "wb", 6, file, mtime=0) if compress else contextlib.nullcontext(file)
    with packing as packed, tarfile.TarFile("", "w", packed, tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for path in sorted((*bundle.manifest.files, MANIFEST)):
            member = tarfile.TarInfo(f"{name}/{path}")  # as nobody's, of 1970, readable by all
            with (bundle.path / path).open("rb") as source:
                member.size = os.fstat(source.fileno()).st_size
                inventory.admit(member)
                tar.addfile(member, source)


def _check_replaceable(output: Path) -> None:
    if not output.exists() and not output.is_symlink():
        return
    try:
        if output.is_symlink() or not output.is_file():
            raise _refusal(output, "it is no file")
        check_archive(output)
    except IntegrityError as exc:
        raise UsageError(f"output {output} exists and is no archive of a bundle", "choose another --output") from exc


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[io.BufferedIOBase]:
    """The tar archive in a file, be it compressed or not."""
    try:
        raw = archive.open("rb")
    except OSError as exc:
        raise error_from_os_error(exc, archive) from exc
    with raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        yield gzip.GzipFile(fileobj=raw, mode="rb") if compressed else raw


@contextlib.contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    """Whatever a damaged header or stream makes the standard library raise is a refusal of that archive."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, *_DAMAGE) as exc:
        reason = (str(exc).splitlines() or [type(exc).__name__])[0].lower()
        raise _refusal(archive, reason) from exc


def _refusal(archive: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{archive} is no archive of a bundle: {reason}", _REMEDY)


def _copy(source: io.BufferedIOBase, copy: io.BufferedIOBase, size: int) -> None:
    while size > 0:
        piece = source.read(min(size, _LARGEST_READ))
        if not piece:
            raise tarfile.ReadError("it is cut off")
        copy.write(piece)
        size -= len(piece)
