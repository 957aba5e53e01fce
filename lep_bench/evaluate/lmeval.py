"""All that knows lm-eval's tasks: they are built here, their rows read, their requests compiled for
one tokenizer, and their answers filtered.

lm-eval is imported inside the functions, because it is slow to import and the commands that only
look at names do not need it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lep_bench import bundle, hub
from lep_bench.config.schema import Conversation, Suite
from lep_bench.errors import LepBenchError, TaskError, explain_error
from lep_bench.evaluate import proof
from lep_bench.evaluate.encode import NO_TEMPLATE, Encoder, MessageEncoder, Pair
from lep_bench.evaluate.prompts import CompiledTask, Item, Messages, Prompt
from lep_bench.files import digest, file_digest, ids_digest, text_digest
from lep_bench.tasks import TaskFile, scan_tasks

# lm-eval's default seed: its samplers draw shots from one sequence of random numbers.
FEWSHOT_SEED = 1234
# The conversation format that is the model's own chat template.
TEMPLATE = "template"


class RowsNotFetchedError(TaskError):
    """The rows are not here, and the Hub cannot be reached."""


# ---- tasks and their rows


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Silence lm-eval's progress bars and log lines, which come for every task."""
    import datasets
    import lm_eval.api.task as module
    from tqdm import tqdm

    logger, bar = logging.getLogger("lm_eval"), module.tqdm
    level = logger.level
    had_bars = not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    module.tqdm = lambda *args, **kwargs: tqdm(*args, **{**kwargs, "disable": True})
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = bar
        if had_bars:
            datasets.enable_progress_bars()


def build_metadata(suite: Suite) -> dict[str, Any]:
    """What a suite passes on to its tasks in a run, as far as it decides which rows they read."""
    return {**suite.metadata, "protocol": suite.protocol}


def make_task_manager(folders: Sequence[Path], metadata: dict[str, Any]) -> Any:
    """lm-eval's TaskManager for the tasks in `folders` alone; `metadata` is passed on to them."""
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=[str(folder) for folder in folders],
        include_defaults=False,
        metadata=metadata,
    )


def make_task_request(task: TaskFile) -> str | dict[str, Any]:
    """What lm-eval loads for a task: its name, or the task with its dataset in the data folder
    instead of on the Hub.

    The `datasets` library does not look into the Hub's cache when it is offline, but it reads a
    folder in the Hub's layout anywhere. lm-eval accepts changes to a known task only as a member of
    a group.
    """
    if task.dataset and not task.own_class:
        folder = bundle.locate_dataset(task.dataset[0])
        if folder:
            member = {"task": task.name, "dataset_path": str(folder)}
            return {"group": f"{task.name}-here", "task": [member]}
    return task.name


def build_task(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> Any:
    """The lm-eval task. One without a class of its own reads its dataset at once, from the data
    folder where it is there. Raises TaskError for a task that cannot be built.
    """
    with quiet_lm_eval():
        manager = make_task_manager(folders, metadata)
        try:
            return next(iter(manager.load([make_task_request(task)])["tasks"].values()))
        except Exception as error:  # the task's code and the datasets library raise anything
            raise _choose_error_class(error)(
                f"task {task.name} ({task.path}) cannot be loaded: {explain_error(error)}"
            ) from error


def list_files(
    task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """What the task's own `files()` lists: {"dataset", "revision", "config", "split", "role",
    "licence", "named", "patterns", "sha256"} for each part of a dataset, or None for a task without
    that method. Reads no rows. Raises TaskError for a task that cannot be built."""
    lm_eval_task = build_task(task, folders, metadata)
    return list(lm_eval_task.files()) if hasattr(lm_eval_task, "files") else None


def count_rows(task: TaskFile, folders: Sequence[Path], metadata: dict[str, Any]) -> int:
    """How many rows the task asks, after reading every one of them. Raises TaskError in one line
    when they cannot be read, RowsNotFetchedError when the Hub cannot be reached for them."""
    if task.dataset:
        hub.go_offline_if_unreachable(task.dataset[0], task.own_class)
    lm_eval_task = build_task(task, folders, metadata)
    shots_split = getattr(lm_eval_task.config.fewshot_config, "split", None)
    with explain_row_errors(task):
        count = len(list(lm_eval_task.eval_docs))
        shots = len(lm_eval_task.dataset[shots_split]) if shots_split else None
    if not count or shots == 0:
        raise TaskError(
            f"{task.name}: its {'test' if not count else shots_split} split has no rows"
        )
    return count


def read_evaluation_rows(
    names: Sequence[str], task_folders: Sequence[Path], metadata: dict[str, Any]
) -> Iterator[tuple[str, int, str, Any]]:
    """(task, doc_id, doc_hash, row) of every row of the named tasks, numbered and hashed as in
    their samples.

    `metadata` as in a run (protocol, data): it decides which rows there are. Raises
    UnknownNameError for a task that does not exist, TaskError for one whose rows cannot be read.
    """
    known = scan_tasks(task_folders)
    for task in [known.get(name) for name in names]:
        if task.dataset:
            hub.go_offline_if_unreachable(task.dataset[0], task.own_class)
        lm_eval_task = build_task(task, known.folders, metadata)
        with explain_row_errors(task):
            rows = list(lm_eval_task.eval_docs)
        yield from ((task.name, number, doc_digest(row), row) for number, row in enumerate(rows))


@contextlib.contextmanager
def explain_row_errors(task: TaskFile) -> Iterator[None]:
    """Turn what reading rows raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = explain_error(error)
        if not why.startswith(f"{task.name}: "):
            why = f"{task.name}: its rows cannot be read: {why}"
        raise _choose_error_class(error)(why) from error


def _choose_error_class(error: BaseException) -> type[TaskError]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if cause in chain:
            break
        chain.append(cause)
    return RowsNotFetchedError if any(map(hub.is_network_error, chain)) else TaskError


def doc_digest(doc: Any) -> str:
    """Hash of a row, the same for every model and engine."""
    return text_digest(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str))


# ---- requests


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

    `limit`: only the first documents. `task_folders`: the user's, beside the shipped one.
    `metadata` is passed on to the tasks, with "tokenizer" set to the folder (`api:NAME` has none)
    and, unless it is given, "max_length" set to the model's positions; its "conversation" names a
    listed format that the tasks render themselves. Raises UnknownNameError for a task that does not
    exist, and TaskError for a missing chat template or dataset and, unless `prove` is off, for the
    first fault that `proof` finds.
    """
    known = scan_tasks(task_folders)
    files = [known.get(name) for name in names]
    encoder = _load_encoder(tokenizer_folder, tokenizer_digest(tokenizer_folder))
    metadata = dict(metadata or {})
    max_length = int(metadata.get("max_length") or 0)
    positions = max_length or read_positions(tokenizer_folder)
    own_template = metadata.get("conversation") in (None, "", TEMPLATE)
    by_template = conversation.format == "chat" and own_template
    if by_template and not encoder.has_template:
        raise TaskError(NO_TEMPLATE.format(folder=tokenizer_folder))
    if encoder.tokenizer is not None:
        metadata["tokenizer"] = str(tokenizer_folder)
    if positions:
        metadata["max_length"] = positions
    compiled_tasks = []
    with quiet_lm_eval():
        manager = make_task_manager(known.folders, metadata)
        for file in files:
            compiled = _compile(
                manager, file, encoder, conversation, limit, by_template, positions, max_length
            )
            faults = list(proof.find_faults(compiled)) if prove else []
            if faults:
                more = f" (and {len(faults) - 1} more prompts)" if faults[1:] else ""
                raise TaskError(faults[0] + more)
            compiled_tasks.append(compiled)
    return tuple(compiled_tasks)


def compile_task(
    name: str, tokenizer_folder: Path, conversation: Conversation, **rest: Any
) -> CompiledTask:
    """`compile_tasks` for one task. The loaded tokenizer is kept for the next one."""
    return compile_tasks([name], tokenizer_folder, conversation, **rest)[0]


def tokenizer_digest(folder: Path) -> str:
    """Hash of the files that a tokenizer and its chat template consist of: equal digests give equal
    prompts.
    """
    files = [Path(folder) / name for name in hub.TOKENIZER_FILES]
    return digest({file.name: file_digest(file) for file in files if file.is_file()})


def read_positions(folder: Path) -> int:
    """The positions that a checkpoint's config.json names (max_position_embeddings), or 0."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return int(config.get("max_position_embeddings") or 0)
    except (OSError, ValueError, AttributeError, TypeError):
        return 0


@lru_cache(maxsize=4)
def _load_encoder(folder: Path, content: str) -> Encoder:
    """`content` is the digest of the files, so that a folder that was rewritten is read again."""
    return Encoder(folder) if hub.parse_served_name(str(folder)) is None else MessageEncoder(folder)


class _Renderer:
    """The model's chat template as lm-eval calls it. Remembers which messages each text was made
    of, and whether the model's turn was opened.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.rendered: dict[str, tuple[Messages, bool]] = {}

    def __call__(
        self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        text = self._encoder.render(messages, add_generation_prompt)
        self.rendered[text] = (tuple(dict(message) for message in messages), add_generation_prompt)
        return text


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
        tasks = manager.load([make_task_request(file)])["tasks"]
        if len(tasks) != 1:
            raise TaskError(
                f"{file.name} ({file.path}) is a group or tag of {len(tasks)} tasks: name "
                "the tasks themselves"
            )
        task = next(iter(tasks.values()))
        _check_conversation(file.name, task, encoder, conversation, by_template)
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
    except Exception as error:  # the task's own code raises anything: refuse it by name
        why = explain_error(error)
        if not why.startswith(f"{file.name}: "):
            why = f"task {file.name} ({file.path}) cannot be asked: {why}"
        raise TaskError(why) from error
    requests = tuple(task.instances)
    ids = _encode_requests(file.name, requests, encoder)
    protocol = (task.get_config("metadata") or {}).get("protocol")
    if not by_template and hasattr(task, "asked") and protocol == "paper":
        # The listed formats begin with BOS, whether or not the tokenizer adds one by itself.
        ids = tuple((encoder.with_bos(context), continuation) for context, continuation in ids)
    rows: dict[int, list[int]] = {}
    for i in sorted(range(len(requests)), key=lambda i: (requests[i].doc_id, requests[i].idx)):
        rows.setdefault(requests[i].doc_id, []).append(i)
    items = tuple(
        _make_item(file.name, task, doc_id, numbers, requests, ids, render)
        for doc_id, numbers in rows.items()
    )
    texts = [text for request in requests for text in request.args if isinstance(text, str)]
    metrics = list(task.aggregation())
    primary = file.primary or ("score" if "score" in metrics or not metrics else metrics[0])
    return CompiledTask(
        name=file.name,
        version=file.version,
        fingerprint=file.fingerprint,
        primary=primary,
        higher_is_better=bool(task.higher_is_better().get(primary, True)),
        shots=int(task.get_config("num_fewshot") or 0),
        task=task,
        encoder=encoder,
        requests=requests,
        ids=ids,
        items=items,
        characters=sum(map(len, texts)),
        by_template=by_template,
        positions=positions,
        max_length=max_length,
        notes=_make_notes(items, len(getattr(task, "left_out", ()))),
    )


def _check_conversation(
    name: str, task: Any, encoder: Encoder, conversation: Conversation, by_template: bool
) -> None:
    """Raises TaskError where a task cannot be asked in this form."""
    if conversation.format == "chat" and not by_template and not hasattr(task, "asked"):
        raise TaskError(
            f"task {name} knows no listed conversation formats, which protocol paper asks in: "
            "score it in another suite"
        )
    scores_tokens = getattr(task, "TOKENS_SCORED", False)
    if encoder.tokenizer is None and scores_tokens and task.protocol == "paper":
        raise TaskError(
            f"task {name} counts the model's own tokens under protocol paper, and "
            f"{encoder.folder} has no tokenizer here"
        )


def _make_notes(items: Sequence[Item], left_out: int) -> tuple[str, ...]:
    """What the task's rules did to the prompts, counted."""
    wanted = sum(item.asked_shots for item in items)
    lost = wanted - sum(item.shots for item in items)
    counts = {
        f"of {len(items)} rows cut on the left to fit the model": sum(item.cut for item in items),
        f"of {len(items)} rows asked with fewer shots than wanted, as more did not fit "
        f"({lost} of {wanted} shots left out)": sum(
            item.shots < item.asked_shots for item in items
        ),
        "rows left out, too long for the suite's budget": left_out,
        f"of {len(items)} rows stand more than once in the data": len(items)
        - len({item.doc_hash for item in items}),
    }
    return tuple(f"{count} {what}" for what, count in counts.items() if count)


def _encode_requests(name: str, requests: Sequence[Any], encoder: Encoder) -> tuple[Pair, ...]:
    ids: list[Pair] = [((), ())] * len(requests)
    by_type: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        by_type.setdefault(request.request_type, []).append(i)
    for request_type, numbers in by_type.items():
        arguments = [requests[i].args for i in numbers]
        if request_type == "loglikelihood":
            pairs = encoder.encode_pairs(arguments)
        elif request_type == "generate_until":
            pairs = [(context, ()) for context in encoder.encode(text for text, _ in arguments)]
        elif request_type == "loglikelihood_rolling":
            # The text alone: the engine puts the one BOS in front. lm-eval's backend lets the
            # tokenizer add another and then scores it; its numbers are these with
            # add_bos_token=False.
            texts = encoder.encode_plain(text for (text,) in arguments)
            pairs = [((encoder.prefix,), text) for text in texts]
        else:
            raise TaskError(f"task {name}: requests of type {request_type!r} are not supported")
        for i, pair in zip(numbers, pairs, strict=True):
            ids[i] = pair
    return tuple(ids)


def _make_item(
    name: str,
    task: Any,
    doc_id: int,
    numbers: list[int],
    requests: Sequence[Any],
    ids: Sequence[Pair],
    render: _Renderer,
) -> Item:
    doc, request_type = requests[numbers[0]].doc, requests[numbers[0]].request_type
    try:
        gold = task.doc_to_target(doc)
        asked = task.asked(doc) if hasattr(task, "asked") else None
    except Exception as error:  # a row that the task's code did not expect: refuse it by name
        raise TaskError(
            f"task {name}, row {doc_id}: its answer cannot be read: {explain_error(error)}"
        ) from error
    options: tuple[str, ...] = ()
    one_context = len({requests[i].args[0] for i in numbers}) == 1
    if len(numbers) > 1 and one_context and request_type == "loglikelihood":
        options = tuple(requests[i].args[1].strip() for i in numbers)
    if isinstance(gold, list):
        gold = gold[0] if len(gold) == 1 else gold
    if isinstance(gold, int) and options:
        gold_index: int | None = gold
    else:
        gold_index = next((i for i, text in enumerate(options) if text == str(gold).strip()), None)
    contexts = dict.fromkeys(
        sum(ids[i], ()) if requests[i].request_type == "loglikelihood_rolling" else ids[i][0]
        for i in numbers
    )
    # -1 separates the prompts of one document.
    joined = [token for context in contexts for token in (*context, -1)][:-1]
    shots = int(task.get_config("num_fewshot") or 0)
    return Item(
        doc_id=doc_id,
        doc=doc,
        doc_hash=doc_digest(doc),
        group=str(doc["group"]) if "group" in doc else str(doc_id),
        gold=options[gold] if isinstance(gold, int) and gold < len(options) else str(gold),
        gold_index=gold_index,
        options=options,
        prompt_ids=ids_digest(joined),
        requests=tuple(numbers),
        prompts=_list_prompts(numbers, requests, render, asked.conversations if asked else ()),
        shots=asked.shots if asked else shots,
        asked_shots=asked.asked_shots if asked else shots,
        cut=bool(asked and asked.cut),
    )


def _list_prompts(
    numbers: Sequence[int],
    requests: Sequence[Any],
    render: _Renderer,
    conversations: Sequence[Any],
) -> tuple[Prompt, ...]:
    """The distinct prompts of a row. The messages that the task says it asked come before those
    that it had rendered.
    """
    texts: dict[str, list[int]] = {}
    for i in numbers:
        rolling = requests[i].request_type == "loglikelihood_rolling"
        texts.setdefault("" if rolling else requests[i].args[0], []).append(i)
    prompts = []
    for number, (text, same) in enumerate(texts.items()):
        messages: Messages | None
        messages, generation_prompt = render.rendered.get(text, (None, True))
        if len(conversations) == len(texts):
            messages = tuple(conversations[number])
            generation_prompt = messages[-1]["role"] != "assistant"
        prompts.append(Prompt(text, tuple(same), messages, generation_prompt))
    return tuple(prompts)


# ---- answers


def split_windows(ids: Sequence[int], prefix: int, positions: int) -> list[Pair]:
    """A whole text as (context, continuation) windows of the model's length: each token is scored
    once, and the last window has its full context.
    """
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    windows = get_rolling_token_windows(list(ids), prefix, positions, 1)
    return [make_disjoint_window(window) for window in windows]


def filter_responses(compiled: CompiledTask, responses: Sequence[Any]) -> list[str]:
    """Let the task's filters work on a response per request. They leave their results in
    `filtered_resps` of the task's requests; their names are returned, the first one first.
    """
    for request, response in zip(compiled.requests, responses, strict=True):
        request.resps = [response] * (request.repeats or 1)
        request.filtered_resps = {}
    compiled.task.apply_filters()
    return list(compiled.requests[0].filtered_resps)


def find_aggregation(compiled: CompiledTask, metric: str) -> Callable[[list[Any]], Any]:
    """How the task aggregates a metric; the mean where it does not say."""
    from lm_eval.api.metrics import mean

    aggregation: Callable[[list[Any]], Any] = compiled.task.aggregation().get(metric, mean)
    return aggregation
