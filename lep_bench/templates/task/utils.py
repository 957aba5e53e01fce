"""The rows of this task. lm-eval loads this file by path; it imports nothing of lep-bench."""

import json
from pathlib import Path

import datasets


def load_rows(**_):
    """Read rows.jsonl, a row a line: question, choices, gold (the number of the right choice),
    group (rows of a group are not independent; standard errors take that into account).
    """
    lines = (Path(__file__).parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
