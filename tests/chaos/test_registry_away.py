"""A registry server that goes away in the middle of a promotion, over real HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from components.core.errors import RegistryServiceError
from components.services.model_registry import ModelRegistryService
from components.services.promotion import PromotionService
from components.services.workspace import Workspace
from flows.servers import free_port, mlflow_server, reach
from tests.chaos.test_kill_promotion import register

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.*Any type hint"),  # MLflow's, of its own functions
]


class Line:
    """The line to a server, which is cut at the n-th write and can be mended."""

    def __init__(self, target: str) -> None:
        self.target, self.cut = target, False
        self.writes_left: int | None = None
        line = self

        class Handler(BaseHTTPRequestHandler):
            def passed_on(self) -> None:
                line.pass_on(self)

            do_GET = do_POST = do_PATCH = do_DELETE = passed_on

            def log_message(self, *args: Any) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        writes = request.command != "GET" and "search" not in request.path
        if writes and self.writes_left is not None:
            self.cut = self.cut or self.writes_left == 0
            self.writes_left -= 1
        if self.cut:
            request.close_connection = True
            return  # no answer: the connection is closed
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        kept = {"Content-Type": request.headers.get("Content-Type") or "application/json"}
        answer = httpx.request(request.command, self.target + request.path, content=body, headers=kept, timeout=30)
        request.send_response(answer.status_code)
        request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        request.send_header("Content-Length", str(len(answer.content)))
        request.end_headers()
        request.wfile.write(answer.content)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Line, PromotionService]]:
    """Two versions in a real server, seen through a line."""
    register(tmp_path)
    port = free_port(None, 5391)
    with mlflow_server(tmp_path, port) as (process, url, log):
        reach(process, f"{url}/health", log)
        line = Line(url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", line.url)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        yield line, PromotionService(ModelRegistryService(Workspace(tmp_path)))
        line.server.shutdown()


def test_the_line_is_cut_at_every_write(away: tuple[Line, PromotionService]) -> None:
    """Cut at any write of a promotion, the command says what to do, the alias stays at a whole version, and the next
    look at the history finishes the move (F4, C53)."""
    line, promotion = away
    for cut_at in range(20):
        wanted = {"1": "2", "2": "1"}[promotion.registry.resolve("m@production").version]
        line.writes_left = cut_at
        try:
            promotion.promote("m", wanted, "production")
        except RegistryServiceError as error:
            told = str(error)
        else:
            break
        assert line.url in told or re.search("postmill history m finishes it", told), told
        line.cut, line.writes_left = False, None
        assert promotion.registry.resolve("m@production").version in ("1", "2")
        begun = [move for move in promotion.history("m") if not move.done]
        assert begun == []
    else:
        pytest.fail("the promotion never came through")
    assert cut_at >= 5  # the record, aliases, stages, and the record again


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is named within half a minute, not after MLflow's five minutes."""
    register(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RegistryServiceError, match="127.0.0.1:9"):
        PromotionService(ModelRegistryService(Workspace(tmp_path))).promote("m", "2", "production")
    assert time.monotonic() - started < 60
