"""Whether the Prefect server that the environment names is there."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request

from pydantic import PositiveFloat

from components.core.component import StrictConfig
from components.core.health import Health
from components.core.kinds import register
from components.interfaces import Probe


@register("probe", "prefect")
class PrefectProbe(Probe):
    """The server of PREFECT_API_URL answers; without that variable each run starts its own."""

    class Config(StrictConfig):
        timeout_s: PositiveFloat = 2

    config: Config

    def ask(self) -> Health:
        url = os.environ.get("PREFECT_API_URL", "")
        if not url:
            return Health("ok", "PREFECT_API_URL is not set; an embedded server is used", {"server": "embedded"})
        shown = re.sub(r"//[^/@]*@", "//", url)  # without a password
        problem = self._problem(url)
        if problem:
            remedy = "start it with `prefect server start`, or unset PREFECT_API_URL; until then runs use their own"
            return Health("degraded", f"no Prefect server answers at {shown} ({problem}); {remedy}", {"server": shown})
        return Health("ok", f"the server at {shown} answers", {"server": shown})

    def _problem(self, url: str) -> str:
        if not url.lower().startswith(("http://", "https://")):
            return "not an http address"
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=self.config.timeout_s) as answer:
                return "" if answer.status == 200 else f"status {answer.status}"
        except (urllib.error.URLError, OSError, ValueError) as error:
            return str(getattr(error, "reason", error)) or type(error).__name__
