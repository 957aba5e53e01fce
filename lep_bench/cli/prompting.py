"""How prompts are shown: roles, rendered text with its special tokens and line ends visible, ids with their pieces."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from lep_bench.cli.show import WIDE
from lep_bench.errors import many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lep_bench.evaluate.compiling import CompiledTask, Item, Prompt

SPECIAL, FAINT, ROLE = "bold magenta", "dim", "bold cyan"
_SIGNS = {" ": "·", "\n": "↵", "\t": "→", "\r": "␍"}


def show(compiled: CompiledTask, title: str, listed: str, rows: int, ids: bool, notes: Sequence[str] = ()) -> None:
    """The first `rows` rows. `listed`: the listed conversation format, where one is used. `notes` stand above them."""
    # Piped, nothing is folded.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    encoder = compiled.encoder
    form = "the model's own chat template" if compiled.by_template else f"the listed format {listed}" if listed else "plain text"
    bos = "no BOS" if encoder.bos is None else f"BOS {encoder.pieces([encoder.bos])[0]} ({encoder.bos})"
    positions = f", {compiled.positions:,} positions" if compiled.positions else ""
    console.print(Text(title, "bold"), soft_wrap=True)
    for line in (
        f"asked in {form if _conversing(compiled) else 'no form: running text'}, {many(compiled.shots, 'shot')}; {bos}{positions}",
        *(notes if _conversing(compiled) else ()),
        f"tokenizer: {encoder.folder}",
        *encoder.notes,
        *compiled.notes,
    ):
        console.print(line, markup=False, soft_wrap=True)
    names = sorted(encoder.tokenizer.get_added_vocab(), key=len, reverse=True)
    special = "|".join(map(re.escape, names))
    for item in compiled.items[:rows]:
        for number, prompt in enumerate(item.prompts, 1):
            _prompt(console, compiled, item, prompt, f"prompt {number} of {len(item.prompts)}" if len(item.prompts) > 1 else "", special, ids)


def finish(compiled: CompiledTask, wrong: int) -> None:
    """The verdict in one line."""
    encoder, console = compiled.encoder, Console(highlight=False)
    rows = f"{many(sum(len(item.prompts) for item in compiled.items), 'prompt')} of {many(len(compiled.items), 'row')}"
    if wrong:
        console.print(Text(f"{rows}: {many(wrong, 'fault')}, listed above", "bold red"))
        return
    proven = ["BOS once"] if encoder.adds_bos or (compiled.by_template and encoder.bos is not None) else []
    proven += ["every message in its place"] if any(prompt.messages for item in compiled.items for prompt in item.prompts) else []
    proven += ["ids as the model's own chat template gives them"] if compiled.by_template and _conversing(compiled) else []
    opened = any(prompt.generation_prompt for item in compiled.items for prompt in item.prompts)
    proven += ["the model's turn opened"] if compiled.by_template and opened and _conversing(compiled) else []
    wanted, there = (sum(counts) for counts in zip(*((item.asked_shots, item.shots) for item in compiled.items), strict=True))
    if wanted:
        proven.append("all shots there" if there == wanted else f"{wanted - there} of {wanted} shots left out by the rules, for every model alike")
    proven += ["none too long"] if compiled.positions else []
    console.print(Text(f"{rows} proven: {', '.join(proven)}", "bold green"), soft_wrap=True)


def _conversing(compiled: CompiledTask) -> bool:
    return any(request.request_type != "loglikelihood_rolling" for request in compiled.requests)


def _prompt(console: Console, compiled: CompiledTask, item: Item, prompt: Prompt, which: str, special: str, ids: bool) -> None:
    context = compiled.ids[prompt.requests[0]][0]
    shots = f"{item.shots} of {many(item.asked_shots, 'shot')}" if item.asked_shots else ""
    facts = [f"row {item.doc_id}", which, many(len(context), "token"), shots, "cut on the left" if item.cut else ""]
    facts.append(f"prompt_ids {item.prompt_ids}")  # as in samples: of all prompts of the row
    console.print()
    console.print(Text("── " + " · ".join([*filter(None, facts), f"gold {_short(item.gold)}"]), "bold"), soft_wrap=True)
    if prompt.messages is not None:
        _section(console, "roles", "what the task asks")
        width = max(len(message["role"]) for message in prompt.messages)
        for message in prompt.messages:
            lines = message["content"].splitlines() or [""]
            _indented(console, Text.assemble((message["role"].ljust(width), ROLE), "  ", ("\n" + " " * (width + 2)).join(lines)))
    _section(console, "rendered", "what the tokenizer is given, by the model's chat template" if prompt.messages and compiled.by_template else "")
    request = compiled.requests[prompt.requests[0]]
    _indented(console, _visible(prompt.text if request.request_type != "loglikelihood_rolling" else request.args[0], special))
    if ids:
        _section(console, "ids", "what the engine reads")
        _indented(console, _pieces(compiled, context))
    _section(console, "asked for", "")
    for i in prompt.requests:
        _indented(console, _request(compiled, i, ids))


def _section(console: Console, name: str, what: str) -> None:
    console.print(Text.assemble((name, "bold"), (f"  {what}" if what else "", FAINT)))


def _indented(console: Console, text: Text) -> None:
    for line in text.wrap(console, console.width - 2):
        console.print(Text.assemble("  ", line), soft_wrap=True)


def _request(compiled: CompiledTask, number: int, ids: bool) -> Text:
    from lep_bench.evaluate import generations  # heavy: listing commands import this package too

    request, continuation = compiled.requests[number], compiled.ids[number][1]
    if request.request_type == "generate_until":
        wanted = generations.read(request)
        ends = f", until {' or '.join(json.dumps(text, ensure_ascii=False) for text in wanted.until)}" if wanted.until else ""
        drawn = wanted.sampling
        how = f"sampled: temperature {drawn.temperature:g}, top_k {drawn.top_k}, top_p {drawn.top_p:g}" if drawn else "greedy"
        return Text(f"an answer of at most {many(wanted.new, 'token')}{ends}; {how}")
    if request.request_type == "loglikelihood_rolling":
        return Text(f"the log-probability of the text, {many(len(continuation), 'token')}")
    text = Text(f"the log-probability of {_short(request.args[1])}, {many(len(continuation), 'token')}")
    return Text.assemble(text, ":  ", _pieces(compiled, continuation)) if ids else text


def _pieces(compiled: CompiledTask, ids: tuple[int, ...]) -> Text:
    """`id piece` pairs; white space in a piece by a sign, so that every piece stays in its place."""
    text = Text()
    for number, piece in zip(ids, compiled.encoder.pieces(ids), strict=True):
        own = number in compiled.encoder.special
        shown = piece if own else "".join(_SIGNS.get(character, character) for character in piece)
        text.append("  " if len(text) else "")
        text.append(f"{number}", FAINT)
        text.append("›", FAINT)  # no space: id and piece are not parted at a line's end
        text.append(shown, SPECIAL if own else "")
    return text


def _visible(text: str, special: str) -> Text:
    """Rendered text: special tokens in colour, line ends by a sign before the real one, a last space by a sign."""
    made = Text(re.sub(r" (?=\n|$)", "·", text).replace("\n", "↵\n"))
    if special:
        made.highlight_regex(special, SPECIAL)
    made.highlight_regex(r"↵(?=\n)", FAINT)
    return made


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)
