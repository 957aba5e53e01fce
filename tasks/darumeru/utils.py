"""The Darumeru tasks for lm-eval. Plain lm-eval code: works with `lm_eval run --include_path` from any folder.

Prompts travel with the rows: `messages` are templates with {named} slots, `inputs` fills them, the last message is the
beginning of the model's answer ("Ответ:") and the model goes on from there.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

_FOLDER = Path(__file__).resolve().parent
_FIELDS = ("messages", "inputs", "outputs", "meta")
_SPLITS = ("test", "prompt")
Messages = list[dict[str, str]]


def _load_metrics() -> Any:
    # lm-eval loads this file by path, so a sibling cannot be imported by name.
    spec = importlib.util.spec_from_file_location("darumeru_metrics", _FOLDER / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


metrics = _load_metrics()


class Rows(list):
    """Rows as they stand in the files. A datasets.Dataset would add a None for every slot that another row has."""

    @property
    def features(self) -> dict[str, None]:
        return dict.fromkeys(_FIELDS)


def read_rows(file: Path) -> Rows:
    """One JSON Lines file. Raises ValueError naming file and line for a row without the fields."""
    rows = Rows()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number}: not JSON: {error}") from error
        missing = [name for name in _FIELDS if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"{file}:{number}: the row has no {', '.join(missing)}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{file}: no rows")
    return rows


def fetch(dataset: str, config: str, revision: str, split: str) -> Path:
    """The split's file in the Hub's dataset at a pinned revision (a short hash is looked up among the commits)."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    where = f"{dataset} at revision {revision}"
    try:
        if len(revision) < 40 and not HF_HUB_OFFLINE:
            commits = [commit.commit_id for commit in HfApi().list_repo_commits(dataset, repo_type="dataset")]
            found = [commit for commit in commits if commit.startswith(revision)]
            if len(found) != 1:
                raise OSError(f"{where}: {len(found)} commits begin with that hash")
            revision = found[0]
        return Path(hf_hub_download(dataset, f"data/{config}/{split}.jsonl", repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise OSError(f"{where} cannot be fetched; set LEP_BENCH_DATA to a local copy (DIR/data/{config}/{split}.jsonl)") from error


def filled(row: dict[str, Any], **changes: str) -> Messages:
    """The row's messages with their slots filled. A few-shot row without inputs is text already."""
    inputs = {**row["inputs"], **changes}
    roles = {"user": "user", "bot": "assistant", "system": "system"}
    return [
        {"role": roles[message["role"]], "content": message["content"].format(**inputs) if inputs else message["content"]}
        for message in row["messages"]
    ]


def plain_text(messages: Messages) -> str:
    """How a model without chat template is asked: turns end with a newline, answers with two, the last is left open."""
    ends = ["\n\n" if message["role"] == "assistant" else "\n" for message in messages]
    return "".join(message["content"] + end for message, end in zip(messages[:-1], ends[:-1])) + messages[-1]["content"]


class DarumeruTask(ConfigurableTask):
    """What the tasks share: rows from the Hub or a local folder, prompts from the rows, shots nearest first in front.

    metadata {"data": DIR} or the environment's LEP_BENCH_DATA names a local folder in the Hub's layout
    (DIR/data/CONFIG/{test,prompt}.jsonl). Metrics are declared in `aggregation`: a metric name of one's own in
    metric_list makes lm-eval ask the Hub for it.
    """

    NAMES: tuple[str, ...] = ("score",)

    def __init__(self, config: dict[str, Any], **_: Any) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        config, revision = self.DATASET_NAME, str((dataset_kwargs or {})["revision"])
        local = (self.config.metadata or {}).get("data") or os.environ.get("LEP_BENCH_DATA")
        folder = Path(local).expanduser() / "data" / config if local else None
        files = {split: folder / f"{split}.jsonl" if folder else fetch(self.DATASET_PATH, config, revision, split) for split in _SPLITS}
        self.dataset = {split: read_rows(file) for split, file in files.items()}

    def fewshot_context(
        self,
        doc: dict[str, Any],
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None,
        **_: Any,
    ) -> list[str]:
        """The prompts of a row, one per entry of `variants`. Shots k-1 ... 0 stand in front: row 0 is nearest."""
        rows = self.dataset["prompt"]
        if num_fewshot > len(rows):
            raise ValueError(f"{self.config.task}: {num_fewshot} shots were asked for, the prompt split has {len(rows)} rows")
        shots = [message for row in reversed(rows[:num_fewshot]) for message in filled(row)]
        system = [{"role": "system", "content": system_instruction}] if system_instruction else []
        prompts = [system + shots + messages for messages in self.variants(doc)]
        if apply_chat_template and chat_template:
            return [chat_template(messages, add_generation_prompt=messages[-1]["role"] != "assistant") for messages in prompts]
        return [plain_text(messages) for messages in prompts]

    def variants(self, doc: dict[str, Any]) -> list[Messages]:
        """The conversations that a row is asked in."""
        return [filled(doc)]

    def doc_to_text(self, doc: dict[str, Any], doc_to_text: Any = None) -> str:
        return plain_text(filled(doc))

    def doc_to_prefix(self, doc: dict[str, Any]) -> None:
        return None

    def aggregation(self) -> dict[str, Any]:
        return {name: lambda values: sum(values) / len(values) for name in self.NAMES}

    def higher_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self.NAMES, True)


class Parus(DarumeruTask):
    """Two alternatives by the log-probability of " 1" and " 2"; each row as is and with the alternatives exchanged."""

    NAMES = ("acc", "score")

    def variants(self, doc: dict[str, Any]) -> list[Messages]:
        inputs = doc["inputs"]
        return [filled(doc), filled(doc, choice1=inputs["choice2"], choice2=inputs["choice1"])]

    def construct_requests(self, doc: dict[str, Any], ctx: list[str], **kwargs: Any) -> list[Instance]:
        for name in ("apply_chat_template", "chat_template"):  # passed on by lm-eval, unknown to an Instance
            kwargs.pop(name, None)
        # Where a tokenizer cuts " 1" into a blank and "1", the blank is a common factor: the first tokens decide.
        requests = [(context, option) for context in ctx for option in (" 1", " 2")]
        return [Instance(request_type="loglikelihood", doc=doc, arguments=pair, idx=n, **kwargs) for n, pair in enumerate(requests)]

    def process_results(self, doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
        return metrics.parus([value for value, _ in results], doc["outputs"])

    def doc_to_prediction(self, doc: dict[str, Any], results: list[tuple[float, bool]]) -> str:
        """For samples: the answers to both orders."""
        values = [value for value, _ in results]
        return f"{metrics.choose(values[:2], ['1', '2'])}, exchanged {metrics.choose(values[2:], ['1', '2'])}"
