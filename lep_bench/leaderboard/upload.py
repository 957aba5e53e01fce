"""Scores in the forms that others read (the Hub's model-index and `.eval_results/`, Every Eval
Ever), and the upload.

Numbers that the page prints in percent are in percent in the Hub's two forms, as its leaderboards
have them, and from 0 to 1 in Every Eval Ever, whose `min_score` and `max_score` say so.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lep_bench import bundle, hub
from lep_bench.errors import LepBenchError, explain_error
from lep_bench.leaderboard import text
from lep_bench.leaderboard.table import SYMBOLS, Block, Cell, Column, Row, Table
from lep_bench.records.schema import ModelRecord, TaskResult
from lep_bench.tasks import TaskFile

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


EVERY_EVAL_EVER = "0.2.1"  # version of eval.schema.json in github.com/evaleval/every_eval_ever
UNKNOWN = "unknown"
Tasks = Mapping[str, TaskFile]


def made_here(model: ModelRecord) -> bool:
    """Whether a model is one that lep-bench makes: anything of a family but its untuned base and
    instruct.
    """
    return model.family is not None and (
        model.stage not in ("base", "instruct") or model.tuning is not None
    )


def standing(table: Table, model: str) -> list[tuple[Block, Row]]:
    """The rows of a model that hold a number, those with most scores first."""
    rows = [(block, row) for block in table.blocks for row in block.rows if row.model == model]
    rows = [found for found in rows if any(c.value is not None for c in found[1].cells)]
    return sorted(rows, key=lambda found: -sum(c.value is not None for c in found[1].cells))


def dataset(task: TaskFile | None) -> str | None:
    """The Hub id of a task's rows; None for rows that stand beside the task, or under no id that
    could be named.
    """
    name = task.dataset[0] if task is not None and task.dataset else ""
    return name if bundle.HUB_ID.fullmatch(name) else None


def _revision(task: TaskFile | None) -> str | None:
    """The commit of the rows; a branch or a shortened hash is none."""
    return (
        task.revision
        if task is not None and re.fullmatch(r"[0-9a-f]{40}", task.revision or "")
        else None
    )


def printed(cell: Cell, column: Column) -> float:
    """A score as the page prints it, with one digit more."""
    assert cell.value is not None
    return float(text.number(cell.value, column.percent, column.digits + 1).replace("−", "-"))


def _scores(table: Table, row: Row) -> list[tuple[Column, Cell]]:
    """What may be cited: whole and current scores."""
    pairs = zip(table.columns, row.cells, strict=True)
    return [
        (column, cell)
        for column, cell in pairs
        if cell.value is not None and cell.limit is None and not cell.stale and not cell.edited
    ]


def eval_results(table: Table, block: Block, row: Row, tasks: Tasks) -> list[EvalResult]:
    """The row for the front matter's model-index. A task without a data set on the Hub stands there
    under its own name.
    """
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset(tasks.get(column.task)) or column.task,
            dataset_name=column.task,
            dataset_config=task.config if (task := tasks.get(column.task)) else None,
            dataset_revision=_revision(task),
            dataset_args={"num_few_shot": block.condition.shots},
            metric_type=column.metric,
            metric_name=f"{column.label}{', percent' if column.percent else ''}",
            metric_value=printed(cell, column),
        )
        for column, cell in _scores(table, row)
    ]


def community(table: Table, block: Block, row: Row, tasks: Tasks, date: str) -> dict[str, str]:
    """File name -> text of the row's `.eval_results/*.yaml`, one per task: only tasks whose rows
    are a data set of the Hub.

    The format: huggingface.co/docs/hub/eval-results. The Hub shows an entry where the data set's
    owners registered it as a benchmark; `task_id` is lm-eval's name of the task.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found = {}
    for column, cell in _scores(table, row):
        name, task = dataset(tasks.get(column.task)), tasks.get(column.task)
        if name is None or column.key != column.task:
            continue
        error = (
            f", standard error {text.number(cell.stderr, column.percent, column.digits + 1)}"
            if cell.stderr
            else ""
        )
        notes = (
            f"{column.metric}{', percent' if column.percent else ''}{error}; "
            f"{text.clean(text.condition(block))}; {cell.samples} items; lep-bench"
        )
        entry = EvalResultEntry(
            name,
            column.task,
            printed(cell, column),
            dataset_revision=_revision(task),
            date=date,
            notes=notes,
        )
        found[f"{column.task}.yaml"] = yaml.safe_dump(
            eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True
        )
    return found


def moment(results: Sequence[TaskResult]) -> datetime:
    """When the newest of these results was made: the time of all that is published of them, so that
    the same results give the same bytes.
    """
    found = max((r.provenance.created for r in results), default="")
    try:
        stamp = datetime.fromisoformat(found)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)


def record(
    table: Table,
    block: Block,
    row: Row,
    tasks: Tasks,
    results: Sequence[TaskResult],
    command: str,
    organisation: str,
) -> tuple[str, str] | None:
    """Path below the folder `data/` and text of a row's record; `results` are the model's own,
    `command` makes them again. None where no score may be cited.

    A model that is not on the Hub goes by the organisation's name. The file's name depends on
    suite, model and way of asking alone: published again, the record takes its predecessor's place.
    """
    scores, own = _scores(table, row), max(results, key=lambda r: r.provenance.created)
    if not scores:
        return None
    given = own.model.lineage[0] if own.model.lineage and not made_here(own.model) else ""
    if not bundle.HUB_ID.fullmatch(given):
        given = f"{_word(organisation)}/{row.model.replace('/', '--')}"
    developer, name = given.split("/")
    when = moment(results)
    made = [
        _evaluation(block, column, cell, tasks.get(column.task), when.isoformat(), command)
        for column, cell in scores
    ]
    content = json.dumps(made, sort_keys=True, ensure_ascii=False, allow_nan=False)
    ours, packages = made_here(own.model), own.provenance.packages
    found = {
        "schema_version": EVERY_EVAL_EVER,
        "evaluation_id": f"{table.suite}/{given}/{int(when.timestamp())}",
        "evaluation_timestamp": when.isoformat(),
        "retrieved_timestamp": str(int(when.timestamp())),
        "dedupe_identity": {
            "content_hash": hashlib.sha256(content.encode()).hexdigest(),
            "hash_algorithm": "sha256",
        },
        "source_metadata": {
            "source_name": f"lep-bench, suite {table.suite}",
            "source_type": "evaluation_run",
            "source_organization_name": organisation or UNKNOWN,
            "evaluator_relationship": "first_party" if ours else "third_party",
        },
        "model_info": {
            "name": row.model,
            "id": given,
            "developer": developer,
            "inference_engine": {
                "name": block.condition.engine,
                "version": own.provenance.engine_version or UNKNOWN,
            },
            "additional_details": {
                "fingerprint": own.model.fingerprint,
                "stage": own.model.stage,
                "dtype": block.condition.dtype,
            },
        },
        "eval_library": {
            "name": "lep-bench",
            "version": packages.get("lep-bench", UNKNOWN),
            "additional_details": {
                name: version for name, version in sorted(packages.items()) if name != "lep-bench"
            },
        },
        "evaluation_results": made,
    }
    # By its form a random one (version 4), as that project wants it, but always the same.
    identity = uuid.UUID(
        bytes=hashlib.sha256(f"{table.suite}/{given}/{block.condition}".encode()).digest()[:16],
        version=4,
    )
    path = "/".join(part.lstrip(".") or UNKNOWN for part in (table.suite, developer, name))
    return f"{path}/{identity}.json", json.dumps(
        found, indent=1, ensure_ascii=False, allow_nan=False
    ) + "\n"


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or UNKNOWN


def _evaluation(
    block: Block, column: Column, cell: Cell, task: TaskFile | None, when: str, command: str
) -> dict[str, Any]:
    assert cell.value is not None
    name, c = dataset(task), block.condition
    details = {
        "task": column.task,
        **({"version": task.version, "fingerprint": task.fingerprint} if task else {}),
    }
    details |= {"revision": task.revision} if task and task.revision else {}
    if name is None:
        data = {
            "source_type": "other",
            "additional_details": details | {"rows": "beside the lm-eval task of this name"},
        }
    else:
        data = {
            "source_type": "hf_dataset",
            "hf_repo": name,
            "samples_number": cell.samples,
            "additional_details": details,
        }
    uncertainty: dict[str, Any] = {"num_samples": cell.samples}
    if cell.stderr is not None:
        uncertainty["standard_error"] = {
            "value": float(f"{cell.stderr:.6g}"),
            "method": "over items, clustered by item group",
        }
    how = {
        "protocol": c.protocol,
        "shots": str(c.shots),
        "format": c.format,
        "training_seeds": str(cell.seeds),
    }
    return {
        "evaluation_name": column.key,
        "evaluation_timestamp": when,
        "source_data": {"dataset_name": name or column.task, **data},
        "metric_config": {
            "evaluation_description": f"{column.metric} of {column.task}",
            "lower_is_better": not column.percent and column.metric != SYMBOLS,
            # never left out: the schema would ask for the fields of levels
            "score_type": "continuous",
            "min_score": 0.0 if cell.value >= 0 else -1.0,  # a correlation
            # What is no share has no bound; the schema wants one.
            "max_score": 1.0 if column.percent else float(max(8, math.ceil(cell.value))),
        },
        "score_details": {"score": float(f"{cell.value:.10g}"), "uncertainty": uncertainty},
        "generation_config": {
            "generation_args": {"execution_command": command},
            "additional_details": how,
        },
    }


def token() -> str:
    """The user's token for the Hub. Raises LepBenchError where there is none or the network is not
    to be touched.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise LepBenchError(
            "--upload needs the network, and HF_HUB_OFFLINE says not to touch it: unset it, "
            "or leave --upload out"
        )
    found = get_token()
    if not found:
        raise LepBenchError(
            "--upload: no Hub token: run `hf auth login`, or set HF_TOKEN to one with write "
            "access; nothing was written"
        )
    return found


def upload(
    folder: Path,
    files: Sequence[str],
    repo: str,
    repo_type: Literal["dataset", "model"],
    key: str,
    public: bool,
) -> str:
    """Upload these files of a folder as one commit, to a repository that is made (private unless
    `public`) where there is none; its address.

    Raises LepBenchError in one line for what the Hub refuses and where it cannot be reached; the
    folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api, kept = HfApi(token=key), f"{folder} is whole: mend that and run the same command again"
    try:
        made = api.create_repo(repo, repo_type=repo_type, private=not public, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=made.repo_id,
            repo_type=repo_type,
            allow_patterns=list(files),
            commit_message="Published by lep-bench",
        )
    except HFValidationError as error:
        raise LepBenchError(f"--to {repo}: {str(error).splitlines()[0]}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = (
            "refuses the token: it must be valid and may write there"
            if status in (401, 403)
            else f"answered {status} ({explain_error(error)})"
        )
        raise LepBenchError(f"{repo}: the Hub {why}. {kept}") from error
    except Exception as error:
        # ValueError: an answer that is not the Hub's.
        if not isinstance(error, OSError | ValueError) and not hub.is_network_error(error):
            raise
        raise LepBenchError(
            f"{repo}: cannot reach the Hugging Face Hub ({explain_error(error)}). {kept}"
        ) from error
    return str(made)
