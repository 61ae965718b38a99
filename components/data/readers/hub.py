"""A dataset of the Hugging Face hub, or a local copy of one. Its files are fetched once and read as a stream.

data: {train: {type: hub, name: hf://openai/gsm8k, config: main, split: train, revision: e53f048}}
data: {train: {type: hub, name: data/gsm8k, split: train}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from components.core.artifacts import hash_file
from components.core.errors import DataError, PostmillError
from components.core.kinds import register
from components.core.secret import Secret
from components.data.readers._arrow import ColumnNames, check_columns, table_rows
from components.data.readers._files import expanded, unreadable
from components.interfaces import RawRow, Reader, ReaderConfig

ADDRESS = "hf://"
BATCH_ROWS = 512
_DECIDES = ("README.md", "dataset_infos.json")
"""What may say, beside the data, how they are read."""
_SAVED = "dataset_info.json"


@register("reader", "hub")
class HubReader(Reader):
    """Rows of a dataset of the Hugging Face hub."""

    class Config(ReaderConfig):
        name: str = Field(min_length=1, description="hf://OWNER/DATASET, or a local directory")
        split: str = "train"
        config: str | None = Field(None, description="configuration of the dataset, where it has several")
        revision: str = Field("main", description="commit, tag or branch; a commit never changes")
        files: list[str] = Field([], description="patterns of the files to fetch; all data files by default")
        columns: ColumnNames = None
        token: Secret | None = Field(None, description="for datasets that are not public: env:HF_TOKEN")

    config: Config
    libraries = ("datasets", "huggingface_hub", "pyarrow")

    def fingerprint(self) -> Mapping[str, str]:
        """The files of the split alone: another split of the same dataset has others."""
        return {f"{self.config.name.rstrip('/')}/{name}": digest for name, digest in self._digests(self._files())}

    def identity(self) -> Mapping[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"name", "revision", "files", "token"})
        beside = [self.directory / name for name in _DECIDES] + [self._saved / _SAVED]
        return {
            "config": config,
            "revision": self.directory.name if self.config.name.startswith(ADDRESS) else None,
            "files": self._digests(self._files()),
            "beside": self._digests([file for file in beside if file.is_file()]),
        }

    def rows(self) -> Iterator[RawRow]:
        try:
            yield from table_rows(self._batches(), self.config.max_row_bytes, self._shown)
        except PostmillError:
            raise
        except Exception as error:  # datasets raises its own, pyarrow's, and plain ValueErrors
            raise self._unreadable(error) from error

    def _batches(self) -> Iterator[Any]:
        wanted = self.config.columns
        for part in self._load().with_format("arrow").iter(BATCH_ROWS):
            check_columns(part.schema, wanted, self._shown)
            yield from (part.select(wanted) if wanted else part).to_batches()

    @property
    def _shown(self) -> str:
        return f"{self.config.name}#{self.config.split}"

    def _unreadable(self, error: Exception) -> DataError:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        return DataError(f"dataset '{self.config.name}', split '{self.config.split}', cannot be read ({text})")

    @cached_property
    def directory(self) -> Path:
        """The dataset's files on this machine."""
        if self.config.name.startswith(ADDRESS):
            return self._snapshot(self.config.name.removeprefix(ADDRESS).removeprefix("datasets/"))
        local = expanded(self.config.name)
        try:
            found = local.is_dir()
        except OSError as error:
            raise unreadable(self.config.name, error) from error
        if not found:
            raise DataError(
                f"dataset '{self.config.name}' is no directory here; one of the hub is written {ADDRESS}OWNER/DATASET"
            )
        return local

    @property
    def _saved(self) -> Path:
        """Where the split lies in what save_to_disk has written."""
        whole = (self.directory / "dataset_dict.json").is_file()
        return self.directory / self.config.split if whole else self.directory

    def _files(self) -> list[Path]:
        """The files of the split in order."""
        try:
            files = self._saved_files() if self._is_saved() else self._data_files()
        except PostmillError:
            raise
        except Exception as error:  # as in rows
            raise self._unreadable(error) from error
        if not files:
            raise DataError(f"dataset '{self.config.name}' holds no files; looked in {self.directory}")
        return files

    def _is_saved(self) -> bool:
        return any((self.directory / name).is_file() for name in ("dataset_dict.json", "state.json"))

    def _saved_files(self) -> list[Path]:
        state = self._saved / "state.json"
        if not state.is_file():
            splits = json.loads((self.directory / "dataset_dict.json").read_bytes())["splits"]
            raise self._no_split(splits)
        return [self._saved / file["filename"] for file in json.loads(state.read_bytes())["_data_files"]]

    def _data_files(self) -> list[Path]:
        """What load_dataset takes for the split, by its own rules: the names of files, or what the README says."""
        import datasets

        found = datasets.load_dataset_builder(str(self.directory), self.config.config).config.data_files or {}
        if self.config.split not in found:
            raise self._no_split(found)
        return [Path(name) for name in found[self.config.split]]

    def _no_split(self, splits: Iterable[Any]) -> DataError:
        known = ", ".join(map(str, splits))
        return DataError(f"dataset '{self.config.name}' has no split '{self.config.split}'; it has {known}")

    def _digests(self, files: Iterable[Path]) -> list[tuple[str, str]]:
        """Name below the dataset's directory and sha256 of files."""
        try:
            return [(os.path.relpath(file, self.directory), hash_file(file)) for file in files]
        except OSError as error:
            raise unreadable(self.config.name, error) from error

    def _load(self) -> Any:
        import datasets

        self._files()  # says it better than datasets does if there is no such split
        if self._is_saved():
            return datasets.load_from_disk(str(self._saved))
        return datasets.load_dataset(str(self.directory), self.config.config, split=self.config.split, streaming=True)

    def _snapshot(self, repository: str) -> Path:
        from huggingface_hub import snapshot_download

        token = self.config.token.reveal() if self.config.token else None
        patterns = [*self.config.files, "README.md"] if self.config.files else None
        try:
            return Path(
                snapshot_download(
                    repository,
                    repo_type="dataset",
                    revision=self.config.revision,
                    allow_patterns=patterns,
                    ignore_patterns=["*.py"],
                    token=token,
                )
            )
        except Exception as error:  # the hub client raises its own, httpx' and OSError families
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise DataError(
                f"dataset '{self.config.name}' (revision {self.config.revision}) is neither on this machine nor "
                f"reachable on the hub ({type(error).__name__}: {reason}); go online once, or "
                "fetch it elsewhere (hf download --repo-type dataset) and name its directory"
            ) from error
