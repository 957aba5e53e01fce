"""Tasks x tokenizer x conversation, compiled once: lm-eval's requests, their token ids, and the
proof of the prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lep_bench import hub
from lep_bench.config.schema import Conversation
from lep_bench.errors import LepBenchError, TaskError, explain_error
from lep_bench.evaluate import proof
from lep_bench.evaluate.encode import NO_TEMPLATE, Encoder, MessageEncoder, Pair
from lep_bench.evaluate.rows import doc_digest, quiet_lm_eval, task_request
from lep_bench.files import digest, file_digest, ids_digest
from lep_bench.tasks import TaskFile, scan_tasks

# lm-eval's own default: its samplers draw shots from one sequence of random numbers
FEWSHOT_SEED = 1234


TEMPLATE = "template"  # the conversation format that is the model's own chat template
Messages = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Prompt:
    """One distinct prompt of a row: the text, which requests ask it, and the messages it was made
    of (None: plain text without roles). `generation_prompt`: whether the model's turn was opened,
    or its last message is to be continued."""

    text: str
    requests: tuple[int, ...]
    messages: Messages | None
    generation_prompt: bool


@dataclass(frozen=True)
class Item:
    """One document: its row, what stands in its samples, and which of the task's requests are its
    own (in order).

    `shots` really stand in the prompt, `asked_shots` were wanted; `cut`: the prompt lost its left
    end."""

    doc_id: int
    doc: Any
    doc_hash: str
    group: str
    gold: str
    gold_index: int | None
    options: tuple[str, ...]
    prompt_ids: str
    requests: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    shots: int
    asked_shots: int
    cut: bool


@dataclass(frozen=True)
class CompiledTask:
    """A task ready to be asked. `ids[i]` belongs to `requests[i]`: (context, continuation);
    generation has no continuation, a rolling text is all continuation. `requests` are lm-eval's
    instances: their answers are replaced by every scoring, so one CompiledTask serves one scoring
    at a time. `positions`: the model's, 0 where its config.json is not there; `max_length`: what
    the caller sets in their place, else 0."""

    name: str
    version: str
    fingerprint: str
    primary: str
    higher_is_better: bool
    shots: int
    task: Any
    encoder: Encoder
    requests: tuple[Any, ...]
    ids: tuple[Pair, ...]
    items: tuple[Item, ...]
    characters: int
    by_template: bool
    positions: int
    max_length: int
    notes: tuple[str, ...]


class _Renderer:
    """The model's chat template, given to lm-eval; remembers what each text was made of."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.made: dict[str, tuple[Messages, bool]] = {}

    def __call__(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        text = self._encoder.render(messages, add_generation_prompt)
        self.made[text] = (tuple(dict(message) for message in messages), add_generation_prompt)
        return text


def compile_tasks(
    names: Sequence[str],
    tokenizer_folder: Path,
    conversation: Conversation,
    limit: int | None = None,
    task_folders: Sequence[Path] = (),
    metadata: dict[str, Any] | None = None,
    prove: bool = True,
) -> tuple[CompiledTask, ...]:
    """Build every prompt of the named tasks for one tokenizer, in the order of `names`, and prove
    it. No model is needed.

    `limit`: first documents only. `task_folders`: the user's, beside the shipped one. `metadata` is
    passed on to the tasks, with "tokenizer" set to the folder (`api:NAME` has none) and
    "max_length" to the model's positions unless given; its "conversation" names a listed format
    that the tasks render themselves. Raises UnknownNameError for a task that does not exist and
    TaskError for a missing chat template or dataset and, unless `prove` is off, for the first fault
    that `proof` finds.
    """
    known = scan_tasks(task_folders)
    files = [known.get(name) for name in names]
    encoder = _encoder(tokenizer_folder, tokenizer_digest(tokenizer_folder))
    given = dict(metadata or {})
    positions = int(given.get("max_length") or read_positions(tokenizer_folder))
    by_template = conversation.format == "chat" and given.get("conversation") in (
        None,
        "",
        TEMPLATE,
    )
    if by_template and not encoder.has_template:
        raise TaskError(NO_TEMPLATE.format(folder=tokenizer_folder))
    own = {"tokenizer": str(tokenizer_folder)} if encoder.tokenizer is not None else {}
    passed = {**given, **own, **({"max_length": positions} if positions else {})}
    with quiet_lm_eval():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(
            include_path=[str(folder) for folder in known.folders],
            include_defaults=False,
            metadata=passed,
        )
        made = []
        for file in files:
            compiled = _compile(
                manager,
                file,
                encoder,
                conversation,
                limit,
                by_template,
                positions,
                int(given.get("max_length") or 0),
            )
            wrong = list(proof.find_faults(compiled)) if prove else []
            if wrong:
                raise TaskError(
                    wrong[0] + (f" (and {len(wrong) - 1} more prompts)" if wrong[1:] else "")
                )
            made.append(compiled)
        return tuple(made)


def compile_task(
    name: str, tokenizer_folder: Path, conversation: Conversation, **rest: Any
) -> CompiledTask:
    """`compile_tasks` of one task; the loaded tokenizer is kept for the next one."""
    return compile_tasks([name], tokenizer_folder, conversation, **rest)[0]


def tokenizer_digest(folder: Path) -> str:
    """Hash of the files a tokenizer and its chat template are made of: equal digests make equal
    prompts.
    """
    files = [Path(folder) / name for name in hub.TOKENIZER_FILES]
    return digest({file.name: file_digest(file) for file in files if file.is_file()})


def read_positions(folder: Path) -> int:
    """The positions that a checkpoint's config.json names (max_position_embeddings); 0 where there
    is none.
    """
    try:
        return int(
            json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get(
                "max_position_embeddings"
            )
            or 0
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return 0


@lru_cache(maxsize=4)
def _encoder(folder: Path, content: str) -> Encoder:
    """`content` is the files' digest: a folder written anew is read anew."""
    return Encoder(folder) if hub.parse_served_name(str(folder)) is None else MessageEncoder(folder)


def _compile(
    manager: Any,
    file: TaskFile,
    encoder: Encoder,
    conversation: Conversation,
    limit: int | None,
    by_template: bool,
    positions: int,
    max_length: int,
) -> CompiledTask:
    render = _Renderer(encoder)
    try:
        tasks = manager.load([task_request(file)])["tasks"]
        if len(tasks) != 1:
            raise TaskError(
                f"{file.name} ({file.path}) is a group or tag of {len(tasks)} tasks: name "
                "the tasks themselves"
            )
        task = next(iter(tasks.values()))
        if conversation.format == "chat" and not by_template and not hasattr(task, "asked"):
            raise TaskError(
                f"task {file.name} knows no listed conversation formats, which protocol "
                "paper asks in: score it in another suite"
            )
        if (
            encoder.tokenizer is None
            and getattr(task, "TOKENS_SCORED", False)
            and task.protocol == "paper"
        ):
            raise TaskError(
                f"task {file.name} counts the model's own tokens under protocol paper, and "
                f"{encoder.folder} has no tokenizer here"
            )
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", conversation.shots)
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(
            limit=limit,
            apply_chat_template=by_template,
            fewshot_as_multiturn=True,
            chat_template=render if by_template else None,
            tokenizer_name=encoder.folder.name if by_template else "",
        )
    except LepBenchError:
        raise
    except Exception as error:  # a task's own code: refused by name, whatever it raises
        why = explain_error(error)
        raise TaskError(
            why
            if why.startswith(f"{file.name}: ")
            else f"task {file.name} ({file.path}) cannot be asked: {why}"
        ) from error
    requests = tuple(task.instances)
    ids = _encode(file.name, requests, encoder)
    if (
        not by_template
        and hasattr(task, "asked")
        and (task.get_config("metadata") or {}).get("protocol") == "paper"
    ):
        # The listed formats begin with BOS, whether or not the tokenizer sets one by itself.
        ids = tuple((encoder.begun(context), continuation) for context, continuation in ids)
    rows: dict[int, list[int]] = {}
    for i in sorted(range(len(requests)), key=lambda i: (requests[i].doc_id, requests[i].idx)):
        rows.setdefault(requests[i].doc_id, []).append(i)
    items = tuple(
        _make_item(file.name, task, doc_id, own, requests, ids, render)
        for doc_id, own in rows.items()
    )
    aggregations = list(task.aggregation())
    primary = file.primary or (
        "score" if "score" in aggregations or not aggregations else aggregations[0]
    )
    return CompiledTask(
        file.name,
        file.version,
        file.fingerprint,
        primary,
        bool(task.higher_is_better().get(primary, True)),
        int(task.get_config("num_fewshot") or 0),
        task,
        encoder,
        requests,
        ids,
        items,
        sum(len(text) for request in requests for text in request.args if isinstance(text, str)),
        by_template,
        positions,
        max_length,
        _make_notes(items, len(getattr(task, "left_out", ()))),
    )


def _make_notes(items: Sequence[Item], left_out: int) -> tuple[str, ...]:
    """What the task's rules did to the prompts, counted."""
    wanted = sum(item.asked_shots for item in items)
    lost = wanted - sum(item.shots for item in items)
    counts = {
        f"of {len(items)} rows cut on the left to fit the model": sum(item.cut for item in items),
        (
            f"of {len(items)} rows asked with fewer shots than wanted, as more did not fit ("
            f"{lost} of {wanted} shots left out)"
        ): sum(item.shots < item.asked_shots for item in items),
        "rows left out, too long for the suite's budget": left_out,
        f"of {len(items)} rows stand more than once in the data": len(items)
        - len({item.doc_hash for item in items}),
    }
    return tuple(f"{count} {what}" for what, count in counts.items() if count)


def _encode(name: str, requests: Sequence[Any], encoder: Encoder) -> tuple[Pair, ...]:
    """Ids of every request."""
    ids: list[Pair] = [((), ())] * len(requests)
    kinds = {
        kind: [i for i, r in enumerate(requests) if r.request_type == kind]
        for kind in {r.request_type for r in requests}
    }
    for kind, chosen in kinds.items():
        arguments = [requests[i].args for i in chosen]
        if kind == "loglikelihood":
            found = encoder.pairs(arguments)
        elif kind == "generate_until":
            found = [(context, ()) for context in encoder.encode(text for text, _ in arguments)]
        elif kind == "loglikelihood_rolling":
            # The text alone: the engine sets the one BOS in front. lm-eval's backend lets the
            # tokenizer add another, and then scores it; its numbers are these with
            # add_bos_token=False.
            found = [
                ((encoder.prefix,), text) for text in encoder.plain(text for (text,) in arguments)
            ]
        else:
            raise TaskError(f"task {name}: requests of type {kind!r} are not supported")
        for i, pair in zip(chosen, found, strict=True):
            ids[i] = pair
    return tuple(ids)


def _ask_group_and_gold(name: str, task: Any, doc_id: int, doc: Any) -> tuple[Any, Any]:
    """What a task says of its row: the right answer, and what was asked (a task of chat
    messages).
    """
    try:
        return task.doc_to_target(doc), task.asked(doc) if hasattr(task, "asked") else None
    except Exception as error:  # a row that is not as the task's code expects it: refused by name
        raise TaskError(
            f"task {name}, row {doc_id}: its answer cannot be read: {explain_error(error)}"
        ) from error


def _make_item(
    name: str,
    task: Any,
    doc_id: int,
    own: list[int],
    requests: Sequence[Any],
    ids: Sequence[Pair],
    render: _Renderer,
) -> Item:
    doc = requests[own[0]].doc
    gold, asked = _ask_group_and_gold(name, task, doc_id, doc)
    options: tuple[str, ...] = ()
    if (
        len(own) > 1
        and len({requests[i].args[0] for i in own}) == 1
        and requests[own[0]].request_type == "loglikelihood"
    ):
        options = tuple(requests[i].args[1].strip() for i in own)
    if isinstance(gold, list):
        gold = gold[0] if len(gold) == 1 else gold
    index = (
        gold
        if isinstance(gold, int) and options
        else next((i for i, text in enumerate(options) if text == str(gold).strip()), None)
    )
    contexts = list(
        dict.fromkeys(
            ids[i][0] if requests[i].request_type != "loglikelihood_rolling" else sum(ids[i], ())
            for i in own
        )
    )
    # -1 parts the prompts of one document
    joined = [token for context in contexts for token in (*context, -1)][:-1]
    shots = int(task.get_config("num_fewshot") or 0)
    return Item(
        doc_id,
        doc,
        doc_digest(doc),
        str(doc["group"]) if "group" in doc else str(doc_id),
        options[gold] if isinstance(gold, int) and gold < len(options) else str(gold),
        index,
        options,
        ids_digest(joined),
        tuple(own),
        _prompts(own, requests, render, asked.conversations if asked else ()),
        asked.shots if asked else shots,
        asked.asked_shots if asked else shots,
        bool(asked and asked.cut),
    )


def _prompts(
    own: Sequence[int], requests: Sequence[Any], render: _Renderer, conversations: Sequence[Any]
) -> tuple[Prompt, ...]:
    """The distinct prompts of a row: what the task says it asked comes before what it had
    rendered.
    """
    texts: dict[str, list[int]] = {}
    for i in own:
        texts.setdefault(
            "" if requests[i].request_type == "loglikelihood_rolling" else requests[i].args[0], []
        ).append(i)
    made = []
    for number, (text, chosen) in enumerate(texts.items()):
        messages, generation_prompt = render.made.get(text, (None, True))
        if len(conversations) == len(texts):
            messages = tuple(conversations[number])
            generation_prompt = messages[-1]["role"] != "assistant"
        made.append(Prompt(text, tuple(chosen), messages, generation_prompt))
    return tuple(made)
