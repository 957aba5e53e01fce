"""Tasks x tokenizer x conversation, compiled once: lm-eval's requests, their token ids, and the proof of the prompts."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lep_bench import taskfiles
from lep_bench.config import Conversation
from lep_bench.errors import TaskError
from lep_bench.evaluate.encoding import Encoder, Pair
from lep_bench.fingerprint import digest, file_digest, ids_digest, text_digest

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt",
)  # fmt: skip
FEWSHOT_SEED = 1234  # lm-eval's own default: its samplers draw shots from one sequence of random numbers


@dataclass(frozen=True)
class Item:
    """One document: its row, what stands in its samples, and which of the task's requests are its own (in order)."""

    doc_id: int
    doc: Any
    doc_hash: str
    group: str
    gold: str
    gold_index: int | None
    options: tuple[str, ...]
    prompt_ids: str
    requests: tuple[int, ...]


@dataclass(frozen=True)
class CompiledTask:
    """A task ready to be asked. `ids[i]` belongs to `requests[i]`: (context, continuation); generation has no
    continuation, a rolling text is all continuation. `requests` are lm-eval's instances: their answers are replaced by
    every scoring, so one CompiledTask serves one scoring at a time."""

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


def compile_tasks(
    names: Sequence[str],
    tokenizer_folder: Path,
    conversation: Conversation,
    limit: int | None = None,
    task_folders: Sequence[Path] = (),
    metadata: dict[str, Any] | None = None,
) -> tuple[CompiledTask, ...]:
    """Build every prompt of the named tasks for one tokenizer, in the order of `names`. No model is needed.

    `limit`: first documents only. `task_folders`: the user's, beside the shipped one. `metadata` is
    passed on to the tasks, with "tokenizer" set to the folder. Raises UnknownName for a task that does not exist and
    TaskError for a prompt without exactly one BOS, an option without tokens, a missing chat template or dataset.
    """
    known = taskfiles.scan(task_folders)
    files = [known.get(name) for name in names]
    encoder = _encoder(tokenizer_folder, tokenizer_digest(tokenizer_folder))
    if conversation.format == "chat" and not encoder.has_template:
        raise TaskError(f"{tokenizer_folder}: its tokenizer has no chat template: ask this model with format: plain")
    with _quiet():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(
            include_path=[str(folder) for folder in known.folders], include_defaults=False,
            metadata={**(metadata or {}), "tokenizer": str(tokenizer_folder)},
        )  # fmt: skip
        return tuple(_compile(manager, file, encoder, conversation, limit) for file in files)


def compile_task(name: str, tokenizer_folder: Path, conversation: Conversation, **rest: Any) -> CompiledTask:
    """`compile_tasks` of one task; the loaded tokenizer is kept for the next one."""
    return compile_tasks([name], tokenizer_folder, conversation, **rest)[0]


def tokenizer_digest(folder: Path) -> str:
    """Hash of the files a tokenizer and its chat template are made of: equal digests make equal prompts."""
    files = [Path(folder) / name for name in TOKENIZER_FILES]
    return digest({file.name: file_digest(file) for file in files if file.is_file()})


@lru_cache(maxsize=4)
def _encoder(folder: Path, content: str) -> Encoder:
    """`content` is the files' digest: a folder written anew is read anew."""
    return Encoder(folder)


def _compile(manager: Any, file: taskfiles.TaskFile, encoder: Encoder, conversation: Conversation, limit: int | None) -> CompiledTask:
    try:
        tasks = manager.load([file.name])["tasks"]
    except (OSError, ImportError, ValueError) as error:
        raise TaskError(f"task {file.name} ({file.path}) cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    if len(tasks) != 1:
        raise TaskError(f"{file.name} ({file.path}) is a group or tag of {len(tasks)} tasks: name the tasks themselves")
    task = next(iter(tasks.values()))
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", conversation.shots)
    task.set_fewshot_seed(FEWSHOT_SEED)
    chat = conversation.format == "chat"
    task.build_all_requests(
        limit=limit, apply_chat_template=chat, fewshot_as_multiturn=True,
        chat_template=encoder.render if chat else None, tokenizer_name=encoder.folder.name if chat else "",
    )  # fmt: skip
    requests = tuple(task.instances)
    ids = _encode(file.name, requests, encoder)
    rows: dict[int, list[int]] = {}
    for i in sorted(range(len(requests)), key=lambda i: (requests[i].doc_id, requests[i].idx)):
        rows.setdefault(requests[i].doc_id, []).append(i)
    items = tuple(_item(task, doc_id, own, requests, ids) for doc_id, own in rows.items())
    aggregations = list(task.aggregation())
    primary = file.primary or ("score" if "score" in aggregations or not aggregations else aggregations[0])
    return CompiledTask(
        file.name, file.version, file.fingerprint, primary, bool(task.higher_is_better().get(primary, True)),
        int(task.get_config("num_fewshot") or 0), task, encoder, requests, ids, items,
        sum(len(text) for request in requests for text in request.args if isinstance(text, str)),
    )  # fmt: skip


def _encode(name: str, requests: Sequence[Any], encoder: Encoder) -> tuple[Pair, ...]:
    """Ids of every request, proven: one BOS, no empty continuation."""
    ids: list[Pair] = [((), ())] * len(requests)
    kinds = {kind: [i for i, r in enumerate(requests) if r.request_type == kind] for kind in {r.request_type for r in requests}}
    for kind, chosen in kinds.items():
        arguments = [requests[i].args for i in chosen]
        if kind == "loglikelihood":
            found = encoder.pairs(arguments)
        elif kind == "generate_until":
            found = [(context, ()) for context in encoder.encode(text for text, _ in arguments)]
        elif kind == "loglikelihood_rolling":
            # The text alone: the engine sets the one BOS in front. lm-eval's backend lets the tokenizer add another,
            # and then scores it; its numbers are these with add_bos_token=False.
            found = [((encoder.prefix,), text) for text in encoder.plain(text for (text,) in arguments)]
        else:
            raise TaskError(f"task {name}: requests of type {kind!r} are not supported")
        for i, pair in zip(chosen, found, strict=True):
            ids[i] = pair
    for request, (context, continuation) in zip(requests, ids, strict=True):
        where = f"task {name}, document {request.doc_id}"
        encoder.prove(context, where)
        if not continuation and request.request_type == "loglikelihood":
            raise TaskError(f"{where}: the option {request.args[1]!r} has no token of its own after the prompt")
    return tuple(ids)


def _item(task: Any, doc_id: int, own: list[int], requests: Sequence[Any], ids: Sequence[Pair]) -> Item:
    doc = requests[own[0]].doc
    options: tuple[str, ...] = ()
    if len(own) > 1 and len({requests[i].args[0] for i in own}) == 1 and requests[own[0]].request_type == "loglikelihood":
        options = tuple(requests[i].args[1].strip() for i in own)
    gold = task.doc_to_target(doc)
    if isinstance(gold, list):
        gold = gold[0] if len(gold) == 1 else gold
    index = gold if isinstance(gold, int) and options else next((i for i, text in enumerate(options) if text == str(gold).strip()), None)
    contexts = list(dict.fromkeys(ids[i][0] if requests[i].request_type != "loglikelihood_rolling" else sum(ids[i], ()) for i in own))
    joined = [token for context in contexts for token in (*context, -1)][:-1]  # -1 parts the prompts of one document
    return Item(
        doc_id, doc, text_digest(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)),
        str(doc["group"]) if "group" in doc else str(doc_id),
        options[gold] if isinstance(gold, int) and gold < len(options) else str(gold),
        index, options, ids_digest(joined), tuple(own),
    )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval draws a progress bar and logs lines for every task: ours is one line for all."""
    import datasets
    import lm_eval.api.task as module
    from tqdm import tqdm

    logger, bar = logging.getLogger("lm_eval"), module.tqdm
    level = logger.level
    bars = datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    module.tqdm = lambda *args, **kwargs: tqdm(*args, **{**kwargs, "disable": True})
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = bar
        if not bars:
            datasets.enable_progress_bars()
