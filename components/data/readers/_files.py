"""What every reader of files shares: the `path` key, finding the files behind it, their digests.

`path` is a file, a directory, a glob (`data/**/*.jsonl`), an address (`s3://bucket/rows.jsonl`), or a list of these.
"""

from __future__ import annotations

import glob
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

from pydantic import BeforeValidator, Field

from components.core.errors import DataError, MissingExtraError
from components.interfaces import RawRow, Reader, ReaderConfig

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of compressed files; they come after the ending of the kind."""


def _plain(value: Any) -> Any:
    """Paths as text: what is written into a recipe."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


Address = Annotated[str, Field(min_length=1)]
Addresses = Annotated[Address | Annotated[list[Address], Field(min_length=1)], BeforeValidator(_plain)]


class FilesConfig(ReaderConfig):
    """Keys of every reader of files."""

    path: Addresses = Field(description="a file, directory, glob or address (s3://...), or a list of them")


@dataclass(frozen=True)
class File:
    """One file: its name as the user knows it, and how its stored bytes are opened."""

    name: str
    open: Callable[[], BinaryIO]
    remote: bool = False
    short: str = ""
    """Its name below the folder that all files of the set share: the same wherever that folder lies."""


class FileReader(Reader):
    """A reader of a set of files. `suffixes` are those of its kind: what it takes from a directory."""

    Config = FilesConfig
    libraries = ("pyarrow",)  # unpacks zstandard
    suffixes: ClassVar[tuple[str, ...]]
    _read: list[tuple[File, str]] | None = None

    def files(self) -> list[File]:
        """The files in the order of reading, each once; a DataError that says what was looked for."""
        return find(self.config.path, self.suffixes)

    def fingerprint(self) -> Mapping[str, str]:
        return {file.name: found for file, found in self._digests()}

    def identity(self) -> Mapping[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"path"})
        return {"config": config, "files": [[self.read_as(file), found] for file, found in self._digests()]}

    def _digests(self) -> list[tuple[File, str]]:
        """Every file and its digest, read once by this reader: gigabytes are asked for twice."""
        if self._read is None:
            self._read = [(file, digest(file)) for file in self.files()]
        return self._read

    def read_as(self, file: File) -> str:
        """What of a file's name may decide how it is read: its ending. The rest of the name where values hold it."""
        return os.path.splitext(_unpacked_name(file.name))[1]

    def rows(self) -> Iterator[RawRow]:
        files = self.files()
        for file in files:
            yield from self.read(file, file is files[-1])

    @abstractmethod
    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        """The rows of one file; `last`: no other follows it."""


def find(path: str | Sequence[str], suffixes: tuple[str, ...] = ()) -> list[File]:
    """The files behind a `path`; those of a directory by their ending, all of them if no suffixes are given."""
    found: dict[str, File] = {}
    for one in [path] if isinstance(path, str) else path:
        found.update({file.name: file for file in (_remote if "://" in one else _local)(one, suffixes)})
    shared = os.path.commonprefix(list(found)).rfind("/") + 1
    return [replace(file, short=file.name[shared:]) for file in found.values()]


def digest(file: File) -> str:
    """sha256 of a file's bytes as they are stored."""
    found = hashlib.sha256()
    try:
        with file.open() as handle:
            while block := handle.read(1 << 20):
                found.update(block)
    except OSError as error:
        raise unreadable(file.name, error) from error
    return found.hexdigest()


def unreadable(name: str, error: Exception) -> DataError:
    """What is said of a file that the operating system, or the network, does not give."""
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]
    return DataError(f"'{name}' cannot be read ({type(error).__name__}: {text}); check the address and the access")


def of_kind(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file name has one of the endings, compressed or not; hidden files have none."""
    base = _unpacked_name(name)
    return not base.startswith((".", "_")) and (not suffixes or base.endswith(suffixes))


def _unpacked_name(name: str) -> str:
    base = name.rsplit("/", 1)[-1].lower()
    return next((base.removesuffix(end) for end in PACKED if base.endswith(end)), base)


def _local(path: str, suffixes: tuple[str, ...]) -> list[File]:
    try:
        names = _local_names(path, expanded(path), suffixes)
    except OSError as error:  # a name that is too long, a directory that may not be listed
        raise unreadable(path, error) from error
    for name in names:
        _check_name(name)
    return [File(name, partial(_open_local, name)) for name in names]


def expanded(path: str) -> Path:
    """The path, with the home directory for its `~`."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"'{path}': there is no such user here ({error}); write the whole path") from error


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        escaped = os.fsencode(name).decode("utf-8", "backslashreplace")
        raise DataError(f"the file name '{escaped}' is not UTF-8; rename the file") from None


def _local_names(path: str, where: Path, suffixes: tuple[str, ...]) -> list[str]:
    if where.is_dir():
        names = sorted(str(file) for file in where.iterdir() if file.is_file() and of_kind(file.name, suffixes))
        if not names:
            kinds = ", ".join(suffixes) or "any"
            inner = f"{path.rstrip('/')}/**/*{suffixes[0] if suffixes else ''}"
            raise DataError(
                f"directory '{path}' holds no data file; looked for {kinds} (also compressed: {', '.join(PACKED)}) "
                f"directly in it; for those in its subdirectories write '{inner}'{_dvc_hint(path)}"
            )
    elif where.is_file():
        names = [str(where)]
    elif where.exists():
        raise DataError(f"'{path}' is a device or a pipe; copy what it gives into a file, which can be read again")
    elif glob.has_magic(path):
        names = sorted(name for name in glob.glob(str(where), recursive=True) if Path(name).is_file())
        if not names:
            raise DataError(f"no file matches '{path}' (looked from {Path.cwd()}){_dvc_hint(path)}")
    else:
        raise DataError(f"data file '{path}' does not exist (looked from {Path.cwd()}){_dvc_hint(path)}")
    return names


def _open_local(name: str) -> BinaryIO:
    return open(name, "rb")


def _dvc_hint(path: str) -> str:
    """Files tracked by DVC are fetched by one command: X.dvc stands beside X, a file or a directory above it."""
    where = Path(path)
    tracked = next((p for p in (where, *where.parents) if p.name and Path(f"{p}.dvc").is_file()), None)
    return f"; run: dvc pull {tracked}.dvc" if tracked else ""


def _remote(address: str, suffixes: tuple[str, ...]) -> list[File]:
    system = _file_system(address)
    if address.startswith(("file://", "local://")):
        return _local(system._strip_protocol(address), suffixes)
    web = address.startswith(("http://", "https://"))  # there '?' begins the query, and directories are not listed
    try:
        if "*" in address or (not web and glob.has_magic(address)):
            names = sorted(system.glob(address))
        elif not web and system.isdir(address):
            entries = system.ls(address, detail=True)
            names = sorted(e["name"] for e in entries if e["type"] == "file" and of_kind(e["name"], suffixes))
        else:
            # what a web server says of a missing file is better heard when the file is opened
            names = [address] if web or system.exists(address) else []
    except Exception as error:  # every file system has a family of its own
        raise unreadable(address, error) from error
    if not names:
        raise DataError(f"nothing is found at '{address}'; looked for {', '.join(suffixes) or 'a file'}")
    return [File(system.unstrip_protocol(name), partial(_open_remote, system, name), True) for name in names]


def _open_remote(system: Any, name: str) -> BinaryIO:
    try:
        return system.open(name, "rb")  # type: ignore[no-any-return]
    except Exception as error:  # as above
        raise unreadable(system.unstrip_protocol(name), error) from error


def _file_system(address: str) -> Any:
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)[0]
    except ImportError as error:
        # fsspec's own words: "Install s3fs to access S3"
        raise MissingExtraError(f"'{address}' cannot be opened: {error} (pip install NAME)") from error
    except ValueError as error:
        raise DataError(f"'{address}' cannot be opened: {error}; known to fsspec: s3, gs, https, hf, ...") from error
    except Exception as error:  # a server that is asked at once, an archive that is missing
        raise unreadable(address, error) from error
