"""TensorBoard: one folder of event files a run, below `tensorboard/`. Nothing else is needed to record.

services: {tracking: {tracker: [mlflow, tensorboard]}}

tensorboard --logdir tensorboard        # look at them
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from components.core.component import StrictConfig
from components.core.errors import require
from components.core.health import Health
from components.core.kinds import register
from components.interfaces import Tracker
from components.trackers._library import copied, library_health

FLUSH_S = 20
"""What a killed process may lose."""


@register("tracker", "tensorboard")
class TensorboardTracker(Tracker):
    """Metrics, texts and images as TensorBoard's event files, files beside them."""

    class Config(StrictConfig):
        root: Path = Path(".")
        folder: Path = Path("tensorboard")

    config: Config

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{name.replace('/', '_')}-{uuid4().hex[:8]}"
        self._folder = self._runs() / run
        self._folder.mkdir(parents=True)
        self._writer: Any = SummaryWriter(log_dir=str(self._folder), flush_secs=FLUSH_S)
        self._writer.add_text("params", _table(params))
        self.tag(tags)
        return run

    def tag(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._writer.add_text(f"tags/{name}", str(value))

    def metrics(self, values: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, figures in values:
            for name, value in figures.items():
                self._writer.add_scalar(name, float(value), step)

    def file(self, path: Path, folder: str = "") -> None:
        kept = copied(path, self._folder / folder)
        if kept.suffix == ".png":
            import numpy
            from PIL import Image

            with Image.open(kept) as image:
                pixels = numpy.asarray(image.convert("RGB"))
            self._writer.add_image(kept.relative_to(self._folder).as_posix(), pixels, dataformats="HWC")

    def finish(self, status: Literal["FINISHED", "FAILED"]) -> None:
        self._writer.add_text("status", status)
        self._writer.close()

    def health(self) -> Health:
        """Whether the library is there and the folder can be written."""
        return library_health("tensorboard", "tensorboard", self._runs())

    def _runs(self) -> Path:
        return self.config.root / self.config.folder


def _table(values: Mapping[str, Any]) -> str:
    """Keys and values as Markdown, which TensorBoard shows as a table."""
    rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
    return "\n".join(["| key | value |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", "<br>")
