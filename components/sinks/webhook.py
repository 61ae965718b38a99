"""Tells a web address when something needs a person: a verdict, a failure, a promotion.

    # postmill.yaml
    sinks: {webhook: {url: env:TEAM_HOOK}}                  # Slack, Mattermost, or `body: json` for a program

What is told waits in a short queue and is sent by a thread of its own, so an address that is slow or dead never slows
or breaks a run. What could not be sent is said once, when the run is over. Without a `url` the sink does nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from components.core.component import StrictConfig
from components.core.errors import ConfigError, did_you_mean
from components.core.events import AliasMoved, Event, GateJudged, RunFinished, RunStarted, StageFailed
from components.core.health import Health
from components.core.kinds import register
from components.core.secret import Secret, masked, masked_data
from components.interfaces import Sink

log = logging.getLogger(__name__)
FAILED_RUN = "run.failed"
"""Stands for a `run.finished` that did not end well; whoever wants every end asks for `run.finished`."""
TOLD = (GateJudged.topic, StageFailed.topic, FAILED_RUN, AliasMoved.topic)
FIELDS = ("recipe", "run", "event", "message")
LONGEST = 2000
"""Characters of a message; an error can be a page."""
BUSY = (429, 500, 502, 503, 504)
"""Answers after which it is tried again."""


class _Message(NamedTuple):
    id: str
    body: bytes


@register("sink", "webhook")
class Webhook(Sink):
    """Posts verdicts, failures and promotions to a web address; does nothing without a `url`."""

    class Config(StrictConfig):
        url: Secret | None = Field(None, description="variable with the address; whoever has it can post")
        events: tuple[str, ...] = Field(TOLD, description=f"topics; `{FAILED_RUN}`: the end of a run that failed")
        body: Literal["slack", "json"] = Field("slack", description='`slack`: {"text": ...}; `json`: the event too')
        text: str = Field("{recipe}: {message}", description=f"of the message; fields: {', '.join(FIELDS)}")
        secret: Secret | None = Field(None, description="variable with a key; messages are signed with it")
        timeout_s: PositiveFloat = Field(5.0, description="for one try")
        retries: NonNegativeInt = Field(3, description="after the first try, each after twice the pause")
        backoff_s: PositiveFloat = Field(0.5, description="the first pause")
        queue: PositiveInt = Field(100, description="messages that may wait; what comes on top is lost")
        flush_s: PositiveFloat = Field(10.0, description="that the end of a run waits for what is not sent yet")

        @field_validator("text")
        @classmethod
        def _fields(cls, text: str) -> str:
            try:
                text.format(**dict.fromkeys(FIELDS, ""))
            except (ValueError, LookupError, AttributeError) as error:
                raise ConfigError(f"not a template with the fields {', '.join(FIELDS)}: {error}") from error
            return text

        @field_validator("events")
        @classmethod
        def _topics(cls, events: tuple[str, ...]) -> tuple[str, ...]:
            known = sorted({FAILED_RUN, *(event.topic for event in Event.__subclasses__())})
            for topic in set(events) - set(known):
                raise ConfigError(f"no event has the topic '{topic}'{did_you_mean(topic, known)}")
            return events

    config: Config
    _off: Callable[[], None] = staticmethod(lambda: None)
    _thread: Thread | None = None
    _recipe, _run = "postmill", ""
    _told = _sent = 0
    _reason = ""
    _lock = Lock()  # events come from several threads

    def setup(self) -> None:
        if self.config.url is None:
            return
        self._url, self._key = self._address(self.config.url), _key(self.config.secret)
        self._queue: Queue[_Message | None] = Queue(self.config.queue)
        self._over = Flag()
        self._thread = Thread(target=self._work, name="postmill-webhook", daemon=True)
        self._thread.start()
        self._off = self.bus.on_any(self._hear)

    def close(self) -> None:
        self._off()
        if self._thread is None:
            return
        end = time.monotonic() + self.config.flush_s
        with suppress(Full):
            self._queue.put(None, timeout=self.config.flush_s)
        self._thread.join(max(0.0, end - time.monotonic()))
        self._over.set()
        self._thread = None
        lost = self._told - self._sent
        if lost:
            log.warning(
                "webhook: %d of %d messages could not be sent to the address in '%s': %s",
                *(lost, self._told, self.config.url, self._reason or "no answer in time"),
            )

    def health(self) -> Health:
        if self.config.url is None:
            return Health("ok", "no address is configured (sinks.webhook.url)")
        said = f"{self._sent} of {self._told} messages sent"
        return Health("degraded", f"{said}: {self._reason}") if self._reason else Health("ok", said)

    @staticmethod
    def _address(url: Secret) -> str:
        found = url.reveal()
        if not found.startswith(("http://", "https://")):
            raise ConfigError(f"sinks.webhook.url: what stands in '{url}' is no address; it begins with https://")
        return found

    # ------------------------------------------------------------ on the thread that emits

    def _hear(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._recipe, self._run = event.recipe, event.run_id
        topic = next((name for name in _names(event) if name in self.config.events), None)
        if topic is None:
            return
        with self._lock:
            self._told += 1
        try:
            self._queue.put_nowait(_Message(f"msg_{uuid.uuid4().hex}", self._body(topic, event)))
        except Full:
            self._reason = f"more than {self.config.queue} were waiting"

    def _body(self, topic: str, event: Event) -> bytes:
        message = masked(message_of(event))[:LONGEST]
        said = {"recipe": self._recipe, "run": self._run, "event": topic, "message": message}
        text = self.config.text.format(**said)
        if self.config.body == "slack":
            # a name in angle brackets would call people, or hide a link
            return json.dumps({"text": html.escape(text, quote=False)}).encode()
        told = {**said, "text": text, "time": event.time, "data": masked_data(event.data)}
        return json.dumps(told).encode()

    # ------------------------------------------------------------ on the thread that sends

    def _work(self) -> None:
        from requests import Session  # knows the proxies of this machine

        with Session() as session:
            while not self._over.is_set():
                try:
                    message = self._queue.get(timeout=1)
                except Empty:
                    continue
                if message is None:
                    return
                self._send(session, message)

    def _send(self, session: Any, message: _Message) -> None:
        """Try, and again after a pause if that may help. urllib3 can do this too, but logs the address, a secret."""
        reason, pause = "", self.config.backoff_s
        for _ in range(1 + self.config.retries):
            if reason and self._over.wait(pause):
                break
            reason, again = self._tried(session, message)
            if not reason:
                self._sent += 1
                return
            if not again:
                break
            pause *= 2
        self._reason = reason

    def _tried(self, session: Any, message: _Message) -> tuple[str, bool]:
        """Why it did not arrive, empty if it did, and whether it may arrive another time."""
        headers = {"Content-Type": "application/json", **_signed(message, self._key)}
        try:
            # whoever answers with another address must not get what was meant for this one
            answer = session.post(
                self._url, message.body, headers=headers, timeout=self.config.timeout_s, allow_redirects=False
            )
        except OSError as error:  # requests' own too; its text would repeat the address
            return type(error).__name__, True
        return "" if answer.status_code < 300 else f"HTTP {answer.status_code}", answer.status_code in BUSY


def _names(event: Event) -> tuple[str, ...]:
    failed = isinstance(event, RunFinished) and event.status == "FAILED"
    return (event.topic, FAILED_RUN) if failed else (event.topic,)


def message_of(event: Event) -> str:
    """What happened, in a sentence."""
    if isinstance(event, GateJudged):
        accepted = f"accepted: {', '.join(event.accepted)}; chosen: {event.chosen}"
        return accepted if event.accepted else "no variant passed the gate"
    if isinstance(event, StageFailed):
        return f"{event.stage} {event.name} failed: {event.error}"
    if isinstance(event, RunFinished):
        return f"the run failed: {event.error}" if event.status == "FAILED" else "the run ended well"
    if isinstance(event, AliasMoved):
        before = f", before it was version {event.before}" if event.before else ""
        return f"{event.model}@{event.alias} is now version {event.version}{before}"
    return f"{event.topic}: {', '.join(f'{name} {value}' for name, value in event.data.items())}"


def _key(secret: Secret | None) -> bytes | None:
    """`whsec_` and base64, as others hand them out, or the text itself."""
    if secret is None:
        return None
    text = secret.reveal()
    coded = text.removeprefix("whsec_")
    try:
        return text.encode() if coded == text else base64.b64decode(coded)
    except ValueError as error:
        raise ConfigError(f"sinks.webhook.secret: what follows 'whsec_' in '{secret}' is not base64") from error


def _signed(message: _Message, key: bytes | None) -> Mapping[str, str]:
    """Headers after https://www.standardwebhooks.com: id, time, and with a key HMAC-SHA256 over both and the body."""
    moment = str(int(time.time()))
    headers = {"webhook-id": message.id, "webhook-timestamp": moment}
    if key is not None:
        signed = hmac.new(key, b".".join((message.id.encode(), moment.encode(), message.body)), hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(signed.digest()).decode()}"
    return headers
