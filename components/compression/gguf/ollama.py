"""An Ollama Modelfile for a GGUF file: `ollama create NAME -f Modelfile` in its folder.

Ollama renders chats with Go templates, not Jinja. Where the model's chat template puts the same text around every turn
(ChatML and its kin), that text is found by rendering turns with it, and written as a Go template that gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.compression.gguf.tokenizer import begins_with_bos
from components.core.chat import Message, render

SAID = ("Speak plainly.", "What is 2 + 3?", "It is 5.", "And 4 + 4?")
ROLES = ("system", "user", "assistant", "user")
MESSAGES: list[Message] = [{"role": role, "content": text} for role, text in zip(ROLES, SAID, strict=True)]


@dataclass(frozen=True)
class Turn:
    """The text around a turn: `before` ROLE `between` CONTENT `after`; and the system message that is the default."""

    before: str
    between: str
    after: str
    system: str = ""

    def render(self, messages: Sequence[Message]) -> str:
        """What Ollama makes of a conversation that the model is to go on with."""
        turns = [f"{self.before}{m['role']}{self.between}{m['content']}{self.after}" for m in messages]
        return "".join(turns) + f"{self.before}assistant{self.between}"

    @property
    def template(self) -> str:
        """The same as a Go template."""
        turn = f"{self.before}{{{{ .Role }}}}{self.between}{{{{ .Content }}}}{self.after}"
        return f"{{{{ range .Messages }}}}{turn}{{{{ end }}}}{self.before}assistant{self.between}"


def turn_of(tokenizer: Any) -> Turn | None:
    """How the tokenizer's template frames turns; None if it has no template, or not one of this form."""
    if not tokenizer.chat_template:
        return None
    start = tokenizer.bos_token if begins_with_bos(tokenizer) else ""  # llama.cpp puts that one in front itself
    text = _prompt(tokenizer, MESSAGES).removeprefix(start)
    head, _, rest = text.partition(SAID[0])
    to_assistant = rest.partition(SAID[1])[2].partition(SAID[2])[0]
    before, found, between = head.rpartition("system")
    joint, known, _ = to_assistant.rpartition("assistant" + between)
    if not (found and known and joint.endswith(before)):
        return None
    turn = Turn(before, between, joint.removesuffix(before))
    if turn.render(MESSAGES) != text:
        return None
    return _with_default(tokenizer, turn, start)


def _with_default(tokenizer: Any, turn: Turn, start: str) -> Turn | None:
    """The turn with the system message that the template puts in by itself where a conversation has none."""
    alone = MESSAGES[1:2]
    text = _prompt(tokenizer, alone).removeprefix(start)
    rest = turn.render(alone)
    if text == rest:
        return turn
    opening, closing = f"{turn.before}system{turn.between}", turn.after
    if not (text.startswith(opening) and text.endswith(closing + rest)):
        return None
    system = text.removeprefix(opening).removesuffix(closing + rest)
    return Turn(turn.before, turn.between, turn.after, system)


def _prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    return render(tokenizer, messages, reply=True)


def modelfile(file: str, tokenizer: Any, turn: Turn | None, context: int) -> str:
    """The text of a Modelfile. Without a turn it has no TEMPLATE, and Ollama goes by the file's own, if it knows it."""
    lines = [f"FROM ./{file}"]
    if turn is not None:
        lines.append(f"TEMPLATE {_quoted(turn.template)}")
        if turn.system:
            lines.append(f"SYSTEM {_quoted(turn.system)}")
    ends = {tokenizer.eos_token, turn.after.strip() if turn else None} - {None, ""}
    lines += [f'PARAMETER stop "{end}"' for end in sorted(ends)]
    lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f'"""{text}"""'
