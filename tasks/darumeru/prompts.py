"""From rows to what a model reads: conversation formats, filled messages, shots.

BOS is written into no prompt: whoever encodes a prompt sets exactly one in front.
"""

from dataclasses import dataclass, replace
from typing import Any

from .rows import where

Messages = list[dict[str, str]]
_ROLES = {"user": "user", "bot": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Asked:
    """What a row was asked with: one conversation per variant, as roles and texts.

    shots: how many the prompt really has, of `asked_shots`. cut: tokens were lost on the left (protocol paper only).
    """

    conversations: tuple[tuple[dict[str, str], ...], ...]
    shots: int
    asked_shots: int
    cut: bool


@dataclass(frozen=True)
class Format:
    """A conversation as text: what stands before and after a message of each role; an answer that ends the conversation
    is left open. opening: what stands before the answer where the last message is not its beginning."""

    turns: dict[str, tuple[str, str]]
    opening: str = ""
    system: str = ""
    stops: tuple[str, ...] = ()

    def render(self, messages: Messages) -> str:
        """The prompt's text. Raises ValueError for a role that the format has no words for."""
        unknown = {message["role"] for message in messages} - set(self.turns)
        if unknown:
            raise ValueError(f"this conversation format has no words for a message of role {', '.join(sorted(unknown))}")
        text = "".join(f"{self.turns[message['role']][0]}{message['content']}{self.turns[message['role']][1]}" for message in messages)
        if messages[-1]["role"] != "assistant":
            return text + self.opening
        end = self.turns["assistant"][1]
        return text[: len(text) - len(end)]


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


_LLAMA3 = Format(
    {role: (_header(role), "<|eot_id|>") for role in ("system", "user", "assistant")}, _header("assistant"),
    "Ты полезный чат-бот, который отвечает на вопросы студентов по университетским курсам на русском языке.", ("<|eot_id|>",),
)  # fmt: skip
# The formats of the benchmark's own runs. Stops: strings that end an answer beside the model's EOS.
FORMATS = {
    "llama3": _LLAMA3,
    "llama3_no_system": replace(_LLAMA3, system=""),
    "openchat_3.5_1210": Format(
        {"user": ("GPT4 Correct User: ", "<|end_of_turn|>"), "assistant": ("GPT4 Correct Assistant: ", "<|end_of_turn|>")},
        "GPT4 Correct Assistant:", stops=("<|end_of_turn|>",),
    ),
    "mistral": Format({"user": ("[INST] ", " [/INST]"), "assistant": ("", "</s>")}),
    "non_instruct": Format({"user": ("Query: ", "\n"), "assistant": ("Response: ", "\n\n")}, "Response:"),
    "non_instruct_simple": Format({"user": ("", "\n"), "assistant": ("", "\n\n")}, stops=("\n", "\n\n")),
}  # fmt: skip
PLAIN = "non_instruct_simple"  # for models without a chat template
TEMPLATE = "template"  # the model's own chat template


def filled(row: dict[str, Any], **changes: str) -> Messages:
    """The row's messages with their {named} slots filled. A few-shot row without inputs is text already.

    Raises ValueError for a slot that the row does not fill.
    """
    inputs = {**row["inputs"], **changes}
    try:
        return [{"role": _ROLES[m["role"]], "content": m["content"].format(**inputs) if inputs else m["content"]} for m in row["messages"]]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        why = f"there is no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where(row)}: its messages cannot be filled from its inputs {', '.join(inputs)}: {why}") from error


def exchange(question: str, lead: str, answer: str | None = None) -> Messages:
    """A question and the beginning of its answer, or with `answer` the whole of it, as a shot."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": lead if answer is None else f"{lead} {answer}"}]


def characters(messages: Messages) -> int:
    """Length of a conversation that no tokenizer and no chat template has a say in."""
    return sum(len(message["content"]) for message in messages)
