"""Libraries that print while they trace: what they say is kept from the terminal, what they raise is not.

Terminal and log belong to the whole process, so one thread at a time is quiet.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress lines, log lines below errors, or warnings of the block reach the terminal."""
    with _one_at_a_time, _silenced():
        yield


_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
