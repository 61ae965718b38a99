"""A dataset of the Hugging Face hub, or a local copy of one. Its files are fetched once and read as a stream.

data: {train: {type: hub, name: hf://openai/gsm8k, config: main, split: train, revision: e53f048}}
data: {train: {type: hub, name: data/gsm8k, split: train}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from components.core.artifacts import hash_file
from components.core.errors import DataError
from components.core.kinds import register
from components.core.secret import Secret
from components.data.readers._arrow import table_rows
from components.interfaces import RawRow, Reader, ReaderConfig

ADDRESS = "hf://"
BATCH_ROWS = 512


@register("reader", "hub")
class HubReader(Reader):
    """Rows of a dataset of the Hugging Face hub."""

    class Config(ReaderConfig):
        name: str = Field(min_length=1, description="hf://OWNER/DATASET, or a local directory")
        split: str = "train"
        config: str | None = Field(None, description="configuration of the dataset, where it has several")
        revision: str = Field("main", description="commit, tag or branch; a commit never changes")
        files: list[str] = Field([], description="patterns of the files to fetch; all data files by default")
        token: Secret | None = Field(None, description="for datasets that are not public: env:HF_TOKEN")

    config: Config

    def fingerprint(self) -> Mapping[str, str]:
        files = {self._named(file): hash_file(file) for file in self._files()}
        if not files:
            raise DataError(f"dataset '{self.config.name}' holds no files; looked in {self.directory}")
        return files

    def rows(self) -> Iterator[RawRow]:
        try:
            table = self._load()
            batches = (batch for part in table.with_format("arrow").iter(BATCH_ROWS) for batch in part.to_batches())
            yield from table_rows(batches, self.config.max_row_bytes, f"{self.config.name}#{self.config.split}")
        except DataError:
            raise
        except Exception as error:  # datasets raises its own, pyarrow's, and plain ValueErrors
            text = " ".join(str(error).split())[:400]
            raise DataError(
                f"dataset '{self.config.name}', split '{self.config.split}', cannot be read "
                f"({type(error).__name__}: {text})"
            ) from error

    @cached_property
    def directory(self) -> Path:
        """The dataset's files on this machine."""
        if self.config.name.startswith(ADDRESS):
            return self._snapshot(self.config.name.removeprefix(ADDRESS).removeprefix("datasets/"))
        local = Path(self.config.name).expanduser()
        if not local.is_dir():
            raise DataError(
                f"dataset '{self.config.name}' is no directory here; one of the hub is written {ADDRESS}OWNER/DATASET"
            )
        return local

    def _files(self) -> list[Path]:
        files = (file for file in self.directory.rglob("*") if file.is_file())
        return sorted(file for file in files if not any(p[0] == "." for p in file.relative_to(self.directory).parts))

    def _named(self, file: Path) -> str:
        return f"{self.config.name.rstrip('/')}/{file.relative_to(self.directory).as_posix()}"

    def _load(self) -> Any:
        import datasets

        directory, split = str(self.directory), self.config.split
        if (self.directory / "dataset_dict.json").is_file():  # written by save_to_disk
            saved = datasets.load_from_disk(directory)
            if split not in saved:
                raise DataError(f"dataset '{self.config.name}' has no split '{split}'; it has {', '.join(saved)}")
            return saved[split]
        if (self.directory / "state.json").is_file():
            return datasets.load_from_disk(directory)
        return datasets.load_dataset(directory, self.config.config, split=split, streaming=True)

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
