"""Answers prompts with a registered model, through the backend that serves it.

`app.container().get(InferenceService).stream("triage@staging", "My kettle leaks")` yields pieces of text.
"""

from __future__ import annotations

from collections.abc import Iterator

from components.core.chat import Message, encode_prompt
from components.core.events import EventBus
from components.core.kinds import service
from components.interfaces import Subject
from components.runtime import opened
from components.services.model_registry import ModelRegistryService


@service("inference")
class InferenceService:
    """Generates text with registered models."""

    def __init__(self, registry: ModelRegistryService, bus: EventBus) -> None:
        self.registry, self.bus = registry, bus

    def stream(
        self, reference: str, prompt: str, system: str | None = None, max_new_tokens: int = 256
    ) -> Iterator[str]:
        """The answer piece by piece. Without `system`, the message the model was trained with is used."""
        model = self.registry.resolve(reference)
        instruction = system if system is not None else model.tags.get("postmill.system", "")
        messages: list[Message] = [{"role": "system", "content": instruction}] if instruction else []
        messages.append({"role": "user", "content": prompt})
        with opened(Subject(name=reference, artifact=model.artifact), bus=self.bus) as backend:
            tokenizer, said, tokens = backend.tokenizer, "", []
            for token in backend.stream(encode_prompt(tokenizer, messages), max_new_tokens):
                if token == tokenizer.eos_token_id:
                    return
                tokens.append(token)
                text = tokenizer.decode(tokens)
                # a character of several tokens decodes to a replacement mark until its last token is there
                if not text.endswith("\ufffd"):
                    yield text[len(said) :]
                    said = text
