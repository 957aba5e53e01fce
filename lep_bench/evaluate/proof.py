"""Proof of the prompts: what the engine will read is what the task asked, whole, in the model's own
form, with one BOS.

Checked for every prompt: BOS; that the text of each message is in the prompt, in order, and no more
often than in the messages; that options have tokens of their own; that the prompt fits the model.
Checked for the first `COMPARED` distinct prompts of a task that the model's chat template rendered:
that the ids equal those of `apply_chat_template(tokenize=True)`, in which neither lm-eval nor the
task has a part; and that the template opens the model's turn where a task leaves that to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lep_bench.errors import TaskError
from lep_bench.evaluate.encode import Encoder, Pair
from lep_bench.evaluate.prompts import CompiledTask, Item, Prompt, read_generation

COMPARED = 16
# Characters. A shorter text may be among the words of the template itself ("user", "Ответ:").
MIN_REPEATED = 24
ANSWER = "Ответ модели"  # what is looked for in a rendered answer


def find_faults(compiled: CompiledTask) -> Iterator[str]:
    """What is wrong with the prompts, one line each: task, row, fault. Yields nothing when all is
    well.
    """
    compared: set[str] = set()
    for item in compiled.items:
        for prompt in item.prompts:
            pairs = [compiled.ids[i] for i in prompt.requests]
            requests = [compiled.requests[i] for i in prompt.requests]
            fault = _find_text_fault(prompt, item, pairs, compiled) or _find_unanswerable(
                pairs, requests, compiled.positions
            )
            rendered = compiled.by_template and not item.cut
            rolling = requests[0].request_type == "loglikelihood_rolling"
            if fault is None and rendered and not rolling:
                if prompt.text not in compared and len(compared) < COMPARED:
                    compared.add(prompt.text)
                    fault = find_template_difference(
                        prompt, pairs, compiled.encoder
                    ) or find_unopened_turn(prompt, compiled.encoder)
            if fault is not None:
                yield f"task {compiled.name}, row {item.doc_id}: {fault}"


def find_shortened(compiled: CompiledTask) -> Iterator[str]:
    """Rows that the task's rules ask with fewer shots than wanted, or with the left end cut off,
    one line each.
    """
    for item in compiled.items:
        reasons = []
        if item.shots < item.asked_shots:
            reasons.append(f"{item.shots} of {item.asked_shots} shots fit")
        if item.cut:
            reasons.append("the prompt is longer than the model and was cut on the left")
        if reasons:
            yield f"task {compiled.name}, row {item.doc_id}: {'; '.join(reasons)}"


def _find_text_fault(
    prompt: Prompt, item: Item, pairs: Sequence[Pair], compiled: CompiledTask
) -> str | None:
    ids, encoder = pairs[0][0], compiled.encoder
    fault = encoder.find_bos_fault(ids)
    if fault is not None:
        if encoder.count_bos(ids) > 1:
            return f"{fault}: {_explain_second_bos(prompt, compiled)}"
        return fault
    if prompt.messages is None:
        return None
    return find_misplaced_message(prompt.text, prompt.messages, item.cut)


def _explain_second_bos(prompt: Prompt, compiled: CompiledTask) -> str:
    bos = compiled.encoder.bos_text
    if any(bos in message["content"] for message in prompt.messages or ()):
        return f"the row's own text has {bos} in it"
    writer = "the chat template" if compiled.by_template else "the prompt's text"
    count = prompt.text.count(bos)
    if count > 1:
        return f"{writer} writes {bos} {count} times"
    return f"{writer} writes {bos} behind other text, the tokenizer another in front"


def _find_unanswerable(
    pairs: Sequence[Pair], requests: Sequence[Any], positions: int
) -> str | None:
    """`positions`: the model's, or 0 where they are not known."""
    for (context, continuation), request in zip(pairs, requests, strict=True):
        if request.request_type == "loglikelihood" and not continuation:
            return f"the option {request.args[1]!r} has no token of its own after the prompt"
        if positions:
            fault = explain_too_long(request, context, continuation, positions)
            if fault is not None:
                return fault
    return None


def explain_too_long(
    request: Any, context: Sequence[int], continuation: Sequence[int], positions: int
) -> str | None:
    """Says so where prompt and answer need more than the model's positions, else None. Running text
    is read in windows and always fits.
    """
    if request.request_type == "loglikelihood_rolling":
        return None
    new = read_generation(request).new if request.request_type == "generate_until" else 0
    length = len(context) + (new or len(continuation) - 1)
    if length <= positions:
        return None
    extra = f" with {new} new tokens" if new else ""
    return f"{length} tokens{extra} do not fit the model's {positions}"


def find_misplaced_message(
    text: str, messages: Sequence[dict[str, str]], cut: bool = False
) -> str | None:
    """The first message whose content is not in `text` after the contents before it, or is there
    once more, between the contents. Templates may strip white space. Of a text that was cut on the
    left, only the last message is looked for."""
    contents = [
        (
            f"the {message['role']}'s text, message {n} of {len(messages)}",
            message["content"].strip(),
        )
        for n, message in enumerate(messages, 1)
    ]
    place, between = 0, []
    for name, content in contents[-1:] if cut else contents:
        begin = text.find(content, place)
        if begin < 0:
            return f"{name}, is not in the prompt in its place: {_shorten(content)}"
        between.append(text[place:begin])
        place = begin + len(content)
    rest = "" if cut else "\n".join([*between, text[place:]])
    for name, content in contents:
        if MIN_REPEATED <= len(content) <= len(rest) and content in rest:
            return f"{name}, is in the prompt more often than it is asked: {_shorten(content)}"
    return None


def _shorten(content: str) -> str:
    return repr(content if len(content) <= 40 else content[:39] + "…")


def find_unopened_turn(prompt: Prompt, encoder: Encoder) -> str | None:
    """Says so where the template puts words of its own before an answer, but leaves them out when
    the model is to answer.

    A template may well do without such words ("[INST] question [/INST]answer"): then nothing stands
    before an answer, either.
    """
    if not prompt.generation_prompt or prompt.messages is None:
        return None
    if encoder.render(prompt.messages, None) != prompt.text:
        return None
    answer = {"role": "assistant", "content": ANSWER}
    try:
        answered = encoder.render([*prompt.messages, answer], False)
    except TaskError:  # a template that has no answers in it
        return None
    asked = prompt.text.rstrip()
    before_answer = answered[: answered.rfind(ANSWER)].rstrip()
    if not before_answer.startswith(asked) or before_answer == asked:
        return None
    return (
        "the model is not told that its turn begins: the chat template knows no "
        f"add_generation_prompt, though it writes {before_answer[len(asked) :]!r} before an answer"
    )


def find_template_difference(prompt: Prompt, pairs: Sequence[Pair], encoder: Encoder) -> str | None:
    """Where the ids differ from those that transformers makes of the same messages, or None. A BOS
    that the tokenizer adds is allowed.
    """
    if prompt.messages is None:
        return "the prompt was not rendered by the model's chat template"
    expected = encoder.template_ids(prompt.messages, prompt.generation_prompt)
    if encoder.adds_bos and encoder.bos is not None and expected[:1] != (encoder.bos,):
        expected = (encoder.bos, *expected)
    # White space that ends a context goes to the continuation (lm-eval's rule, since tokens begin
    # with it): there the template's ids are looked for in the two together, or without the white
    # space in the context.
    moved = prompt.text != prompt.text.rstrip() and bool(pairs[0][1])
    bare = expected
    while moved and bare and not encoder.spell(bare[-1:])[0].strip():
        bare = bare[:-1]
    for context, continuation in pairs:
        ids = (*context, *continuation)[: len(expected)] if moved else context
        if ids == expected or (moved and context == bare):
            continue
        differing = (n for n, (a, b) in enumerate(zip(ids, expected)) if a != b)
        at = next(differing, min(len(ids), len(expected)))
        ours, theirs = (
            repr(encoder.spell(side[at : at + 1])[0]) if side[at:] else "nothing"
            for side in (ids, expected)
        )
        return (
            f"the ids differ from the model's own chat template: token {at} is {ours}, the "
            f"template's {theirs}"
        )
    return None
