"""The rows that tasks ask about, without a model or a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lep_bench import bundle, taskfiles
from lep_bench.evaluate import needs


def evaluation_rows(names: Sequence[str], task_folders: Sequence[Path], metadata: dict[str, Any]) -> Iterator[tuple[str, int, str, Any]]:
    """(task, doc_id, doc_hash, row) of every row of the named tasks, numbered and hashed as in their samples.

    `metadata` as in a run (protocol, data): it decides which rows there are. Raises UnknownName for a task that does not
    exist, TaskError for one whose rows cannot be read.
    """
    from lep_bench.evaluate.compiling import doc_digest

    known = taskfiles.scan(task_folders)
    for task in [known.get(name) for name in names]:
        if task.dataset:
            bundle.look_for_hub(task.dataset[0], task.own_class)
        built = needs.build(task, known.folders, metadata)
        with needs.clear_row_errors(task):
            rows = list(built.eval_docs)
        yield from ((task.name, number, doc_digest(row), row) for number, row in enumerate(rows))
