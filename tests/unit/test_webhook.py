"""The webhook tells a local server what happened, signs it, and never slows or breaks a run that cannot reach it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from components.core.errors import ConfigError
from components.core.events import (
    AliasMoved,
    EventBus,
    GateJudged,
    RunFinished,
    RunStarted,
    StageFailed,
    StageFinished,
)
from components.core.kinds import registry
from components.core.recipe import parse_recipe
from components.core.settings import Settings
from components.services.application import Application
from components.services.workspace import Workspace
from components.sinks.webhook import Webhook
from tests import tiny
from tests.conftest import ROOT

JUDGED = GateJudged(accepted=("int4", "int8"), chosen="int4")
FAILED = StageFailed(stage="optimize", name="int4/onnx", error="RuntimeError: no room")
MOVED = AliasMoved(model="triage", alias="production", version="7", before="5")
STARTED = RunStarted(recipe="triage", run_id="r1", digest="d")
KEY = "a key of our own"
TIMEOUT_S = 20
GUIDE = (ROOT / "docs" / "notifications.md").read_text(encoding="utf-8")


def ended(status: str) -> RunFinished:
    return RunFinished(recipe="triage", run_id="r1", status=status, error="OSError: gone" if status == "FAILED" else "")


@dataclass
class Hook:
    """Keeps what it is sent. `answers`: status codes to give first; `hold`: it answers when that is set."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hold: threading.Event | None = None

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A hook at the address in TEAM_HOOK."""
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            if found.hold:
                found.hold.wait(TIMEOUT_S)
            self.send_response(found.answers.pop(0) if found.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/services/T1/xyz-path-is-the-secret"
    monkeypatch.setenv("TEAM_HOOK", found.url)
    yield found
    if found.hold:
        found.hold.set()
    server.shutdown()
    server.server_close()


def tell(*events: Any, **config: Any) -> Webhook:
    """A webhook that has heard these events, and was closed."""
    settings = {"url": "env:TEAM_HOOK", "backoff_s": 0.01} | config
    bus = EventBus()
    with Webhook(Webhook.Config.model_validate(settings)).attach(bus, Path()) as sink:
        for event in events:
            bus.emit(event)
    return sink


def test_verdicts_failures_and_promotions_are_told(hook: Hook) -> None:
    """By default a person hears of verdicts, failed stages, failed runs and moved aliases, each in a sentence (C65)."""
    quiet = StageFinished(stage="train", name="sft", key="k", size=1)
    tell(
        STARTED, JUDGED, GateJudged(accepted=(), chosen=None), FAILED, quiet, ended("FAILED"), ended("FINISHED"), MOVED
    )
    assert hook.texts == [
        "triage: accepted: int4, int8; chosen: int4",
        "triage: no variant passed the gate",
        "triage: optimize int4/onnx failed: RuntimeError: no room",
        "triage: the run failed: OSError: gone",
        "triage: triage@production is now version 7, before it was version 5",
    ]
    assert all(body.keys() == {"text"} for body in hook.bodies)


def test_topics_are_chosen(hook: Hook) -> None:
    """`events` says which topics are told; any topic may stand there, and `run.finished` means every end (C65)."""
    finished = StageFinished(stage="train", name="sft", key="k", size=1)
    tell(JUDGED, FAILED, finished, ended("FINISHED"), ended("FAILED"), events=["run.finished", "stage.finished"])
    assert [text.partition(",")[0] for text in hook.texts] == [
        "postmill: stage.finished: stage train",
        "postmill: the run ended well",
        "postmill: the run failed: OSError: gone",
    ]


def test_a_program_gets_the_event(hook: Hook) -> None:
    """`body: json` carries topic, run, time and what the event holds beside the text, which is a template (C65)."""
    tell(STARTED, JUDGED, body="json", text="[{event}] {message}")
    (body,) = hook.bodies
    assert body["text"] == "[gate.judged] accepted: int4, int8; chosen: int4"
    assert (body["event"], body["recipe"], body["run"]) == ("gate.judged", "triage", "r1")
    assert body["data"] == {"accepted": ["int4", "int8"], "chosen": "int4"}
    assert body["time"] == pytest.approx(JUDGED.time)


def test_messages_are_signed(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a secret the receiver can check who sent the message and when, after the Standard Webhooks rules."""
    coded = "whsec_" + base64.b64encode(KEY.encode()).decode()
    for number, secret in enumerate((KEY, coded)):
        monkeypatch.setenv("HOOK_KEY", secret)
        tell(JUDGED, secret="env:HOOK_KEY")
        headers, body = hook.got[number]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        found = base64.b64encode(hmac.new(KEY.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{found}"
        assert abs(time.time() - int(headers["webhook-timestamp"])) < TIMEOUT_S
    tell(JUDGED)
    assert "webhook-signature" not in hook.got[-1][0]


def test_a_busy_address_is_tried_again(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    """A 503 and a 429 are tried again with the same id, and a message that arrives late is no loss."""
    hook.answers = [503, 429]
    sink = tell(JUDGED)
    assert len({headers["webhook-id"] for headers, _ in hook.got}) == 1
    assert len(hook.got) == 3
    assert sink.health().detail == "1 of 1 messages sent"
    assert not caplog.records


@pytest.mark.parametrize("status", [404, 302, 500])
def test_a_refusal_is_said_once_and_without_the_address(
    hook: Hook, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """What an address refuses is one warning a run, with the reason and not the address, which is secret."""
    hook.answers = [status] * 20
    sink = tell(JUDGED, FAILED, MOVED, retries=1)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"webhook: 3 of 3 messages could not be sent to the address in 'env:TEAM_HOOK': HTTP {status}"
    )
    assert sink.health().status == "degraded"
    assert "xyz" not in caplog.text


def test_a_dead_address_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens: the run is not disturbed, and one warning tells the kind of error but not the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TEAM_HOOK", f"http://127.0.0.1:{free.getsockname()[1]}/xyz-path-is-the-secret")
    tell(JUDGED, FAILED, retries=1)
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "2 of 2 messages could not be sent to the address in 'env:TEAM_HOOK': ConnectionError"
    )
    assert "xyz" not in caplog.text


def test_a_slow_address_slows_nothing(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    """Emitting never waits for the address: the queue is bounded, the rest is lost and counted, the end is bounded."""
    hook.hold = threading.Event()
    bus, config = EventBus(), {"url": "env:TEAM_HOOK", "queue": 2, "flush_s": 0.3, "retries": 0, "timeout_s": 15.0}
    started = time.monotonic()
    with Webhook(Webhook.Config.model_validate(config)).attach(bus, Path()):
        for _ in range(50):
            bus.emit(JUDGED)
        assert time.monotonic() - started < 2
    assert time.monotonic() - started < 5
    (record,) = caplog.records
    assert "50 of 50 messages could not be sent" in record.getMessage()
    assert "more than 2 were waiting" in record.getMessage()


def test_secrets_do_not_leave(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in an error is blotted out in both forms, and text cannot call people or hide a link in Slack."""
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY1234567")
    leaking = StageFailed(stage="fetch", name="base", error="401 for hf_CANARY1234567 <!channel> & more")
    tell(leaking)
    tell(leaking, body="json")
    assert all(b"CANARY" not in body for _, body in hook.got)
    assert "401 for *** &lt;!channel&gt; &amp; more" in hook.texts[0]
    assert hook.bodies[1]["data"]["error"] == "401 for *** <!channel> & more"


def test_without_an_address_it_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Not configured, it subscribes to nothing, starts no thread, and is healthy."""
    before = threading.active_count()
    sink = Webhook().attach(EventBus(), Path())
    with sink:
        sink.bus.emit(JUDGED)
        assert threading.active_count() == before
        assert sink.health().status == "ok"
    assert not caplog.records


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"url": "https://hooks.example.com/xyz"}, "env:"),
        ({"events": ["gate.juged"]}, "did you mean 'gate.judged'"),
        ({"text": "{recipee}"}, "not a template with the fields recipe, run, event, message"),
        ({"text": "{recipe"}, "not a template"),
    ],
)
def test_mistakes_are_told_when_the_settings_are_checked(config: dict[str, Any], message: str) -> None:
    """An address in clear, an unknown topic and a bad template are refused with the remedy; no value is repeated."""
    with pytest.raises((ConfigError, ValidationError)) as caught:
        registry.create("sink", "webhook", **config)
    assert message in str(caught.value)
    assert "xyz" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("url", "ftp://host"), ("secret", "whsec_a"), ("url", "")])
def test_what_stands_in_the_variable_is_checked(name: str, value: str, hook: Hook, monkeypatch: Any) -> None:
    """A variable that is empty or holds no address, or a key that is not base64, is named, and its value is not."""
    monkeypatch.setenv("OTHER", value)
    with pytest.raises(ConfigError, match="OTHER") as caught:
        tell(JUDGED, **{name: "env:OTHER"})
    assert not value or value not in str(caught.value)


def test_a_run_is_told_through_the_settings(hook: Hook, tmp_path: Path, tiny_model: Path) -> None:
    """`sinks: {webhook: {url: env:...}}` is all that it takes, and what was told is sent when the run is over (C65)."""
    plan = parse_recipe(tiny.recipe(tmp_path, tiny_model))
    settings = Settings(root=tmp_path, sinks={"webhook": {"url": "env:TEAM_HOOK"}})
    with Application(settings) as app, app.run(plan) as run:
        assert app.sinks.health()["webhook"].status == "ok"
        run.get(Workspace).bus.emit(JUDGED)
    assert hook.texts == ["postmill: accepted: int4, int8; chosen: int4"]


@pytest.mark.parametrize(("language", "code"), re.findall(r"```(yaml|python)\n(.*?)```", GUIDE, re.DOTALL))
def test_the_guide_is_right(language: str, code: str) -> None:
    """Every setting of docs/notifications.md is one, and its Python signs as we do."""
    if language == "yaml":
        for name, config in Settings(**yaml.safe_load(code)).sinks.items():
            registry.create("sink", name, **config)
        return
    names: dict[str, Any] = {}
    exec(code.replace("the secret", KEY), names)
    signed = hmac.new(KEY.encode(), b"msg_1.1760000000." + names["body"], hashlib.sha256)
    assert names["expected"] == f"v1,{base64.b64encode(signed.digest()).decode()}"
