"""Proof of the prompts: what the engine will read is what the task asked, whole, in the model's own
form, with one BOS.

Checked for every prompt: BOS; that each message's text stands in the prompt, in order, and no more
often than in the messages; that options have tokens of their own; that the prompt fits the model.
Checked for the first `COMPARED` distinct prompts of a task that the model's chat template rendered:
the ids against `apply_chat_template(tokenize=True)`, in which neither lm-eval nor the task has a
part; and that the template opens the model's turn where a task leaves that to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lep_bench.errors import TaskError
from lep_bench.evaluate import generation
from lep_bench.evaluate.encode import Encoder, Pair

if TYPE_CHECKING:
    from lep_bench.evaluate.lmeval import CompiledTask, Item, Prompt


COMPARED = 16
# characters: a shorter text may be among the words of the template itself ("user", "Ответ:")
OWN_WORDS = 24
ANSWER = "Ответ модели"  # what is looked for in a rendered answer


def find_faults(compiled: CompiledTask) -> Iterator[str]:
    """What is wrong with the prompts, one line each: task, row, what. Nothing when all is well."""
    compared: set[str] = set()
    for item in compiled.items:
        for prompt in item.prompts:
            pairs, requests = (
                [compiled.ids[i] for i in prompt.requests],
                [compiled.requests[i] for i in prompt.requests],
            )
            found = _fault(prompt, item, pairs, compiled) or _unanswerable(
                pairs, requests, compiled.positions
            )
            asked = (
                compiled.by_template
                and not item.cut
                and requests[0].request_type != "loglikelihood_rolling"
            )
            if found is None and asked and prompt.text not in compared and len(compared) < COMPARED:
                compared.add(prompt.text)
                found = find_template_difference(prompt, pairs, compiled.encoder) or find_unopened(
                    prompt, compiled.encoder
                )
            if found is not None:
                yield f"task {compiled.name}, row {item.doc_id}: {found}"


def find_shortened(compiled: CompiledTask) -> Iterator[str]:
    """Rows asked with fewer shots than wanted or with the left end cut off (both by the task's
    rules), one line each.
    """
    for item in compiled.items:
        found = (
            [f"{item.shots} of {item.asked_shots} shots fit"]
            if item.shots < item.asked_shots
            else []
        )
        found += ["the prompt is longer than the model and was cut on the left"] if item.cut else []
        if found:
            yield f"task {compiled.name}, row {item.doc_id}: {'; '.join(found)}"


def _fault(prompt: Prompt, item: Item, pairs: Sequence[Pair], compiled: CompiledTask) -> str | None:
    ids, encoder = pairs[0][0], compiled.encoder
    found = encoder.fault(ids)
    if found is not None:
        return f"{found}: {_twice(prompt, compiled)}" if encoder.count_bos(ids) > 1 else found
    return (
        find_misread(prompt.text, prompt.messages, item.cut)
        if prompt.messages is not None
        else None
    )


def _twice(prompt: Prompt, compiled: CompiledTask) -> str:
    """Who wrote a second BOS."""
    bos = compiled.encoder.bos_text
    if any(bos in message["content"] for message in prompt.messages or ()):
        return f"the row's own text has {bos} in it"
    who, written = (
        "the chat template" if compiled.by_template else "the prompt's text",
        prompt.text.count(bos),
    )
    return (
        f"{who} writes {bos} {written} times"
        if written > 1
        else f"{who} writes {bos} behind other text, the tokenizer another in front"
    )


def _unanswerable(pairs: Sequence[Pair], requests: Sequence[Any], positions: int) -> str | None:
    """`positions`: the model's; 0 where they are not known."""
    for (context, continuation), request in zip(pairs, requests, strict=True):
        if request.request_type == "loglikelihood" and not continuation:
            return f"the option {request.args[1]!r} has no token of its own after the prompt"
        wrong = explain_too_long(request, context, continuation, positions) if positions else None
        if wrong is not None:
            return wrong
    return None


def explain_too_long(
    request: Any, context: Sequence[int], continuation: Sequence[int], positions: int
) -> str | None:
    """Says so where prompt and answer need more than the model's positions. Running text is read in
    windows and always fits.
    """
    if request.request_type == "loglikelihood_rolling":
        return None
    new = generation.read_generation(request).new if request.request_type == "generate_until" else 0
    length = len(context) + (new or len(continuation) - 1)
    extra = f" with {new} new tokens" if new else ""
    return (
        f"{length} tokens{extra} do not fit the model's {positions}" if length > positions else None
    )


def find_misread(text: str, messages: Sequence[dict[str, str]], cut: bool = False) -> str | None:
    """The first message whose content does not stand in `text` behind the contents before it, or
    stands there once more, in what is between the contents. Templates may strip white space. Of a
    text that was cut on the left, the end is looked at."""
    place, between = 0, []
    asked = [
        (
            f"the {message['role']}'s text, message {n} of {len(messages)}",
            message["content"].strip(),
        )
        for n, message in enumerate(messages, 1)
    ]
    for name, content in asked[-1:] if cut else asked:
        begin = text.find(content, place)
        if begin < 0:
            return f"{name}, is not in the prompt in its place: {_short(content)}"
        between.append(text[place:begin])
        place = begin + len(content)
    rest = "" if cut else "\n".join([*between, text[place:]])
    for name, content in asked:
        if OWN_WORDS <= len(content) <= len(rest) and content in rest:
            return f"{name}, is in the prompt more often than it is asked: {_short(content)}"
    return None


def _short(content: str) -> str:
    return repr(content if len(content) <= 40 else content[:39] + "…")


def find_unopened(prompt: Prompt, encoder: Encoder) -> str | None:
    """Says so where the template begins an answer with words of its own, but leaves them out when
    the model is to answer.

    A template may well do without them ("[INST] question [/INST]answer"): then nothing stands
    before an answer, either.
    """
    if (
        not prompt.generation_prompt
        or prompt.messages is None
        or encoder.render(prompt.messages, None) != prompt.text
    ):
        return None
    try:
        answered = encoder.render(
            [*prompt.messages, {"role": "assistant", "content": ANSWER}], False
        )
    except TaskError:  # a template that has no answers in it
        return None
    told, before = prompt.text.rstrip(), answered[: answered.rfind(ANSWER)].rstrip()
    if not before.startswith(told) or before == told:
        return None
    words = repr(before[len(told) :])
    return (
        "the model is not told that its turn begins: the chat template knows no "
        f"add_generation_prompt, though it writes {words} before an answer"
    )


def find_template_difference(prompt: Prompt, pairs: Sequence[Pair], encoder: Encoder) -> str | None:
    """Where the ids differ from those that transformers makes of the same messages; a BOS that the
    tokenizer sets is allowed.
    """
    if prompt.messages is None:
        return "the prompt was not rendered by the model's chat template"
    expected = encoder.template_ids(prompt.messages, prompt.generation_prompt)
    if encoder.adds_bos and expected[:1] != (encoder.bos,):
        expected = (encoder.bos, *expected)
    # White space that ends a context goes to the continuation (lm-eval's rule, since tokens begin
    # with it): there the template's ids are looked for in the two together, or without the white
    # space in the context.
    moved = prompt.text != prompt.text.rstrip() and bool(pairs[0][1])
    bare = expected
    while moved and bare and not encoder.pieces(bare[-1:])[0].strip():
        bare = bare[:-1]
    for context, continuation in pairs:
        found = (*context, *continuation)[: len(expected)] if moved else context
        if found != expected and not (moved and context == bare):
            at = next(
                (n for n, (ours, theirs) in enumerate(zip(found, expected)) if ours != theirs),
                min(len(found), len(expected)),
            )
            ours, theirs = (
                repr(encoder.pieces(ids[at : at + 1])[0]) if ids[at:] else "nothing"
                for ids in (found, expected)
            )
            return (
                f"the ids differ from the model's own chat template: token {at} is {ours}, the "
                f"template's {theirs}"
            )
    return None
