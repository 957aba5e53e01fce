"""A dataset, a model and a suite that the tests of bundles serve from a Hub on the loopback
interface (fixtures in conftest.py).
"""

from __future__ import annotations

import json

import yaml

from lep_bench import files

BASE = files.builtin_checkpoints() / "mini-llama" / "base"
DARUMERU = yaml.safe_load(
    (files.shipped_folder("tasks") / "darumeru" / "_darumeru.yaml").read_text(encoding="utf-8")
)["dataset_kwargs"]["revision"]
SUITE = {
    "title": "Tiny",
    "tasks": ["darumeru_parus"],
    "baselines": ["pico"],
    "protocol": "paper",
    "base": {"format": "plain", "shots": 1},
    "mean": {"kind": "plain", "tasks": {"darumeru_parus": 0.25}},
}


def parus(number: int, shot: bool = False) -> dict[str, object]:
    """A row like those of the dataset."""
    messages = [
        {"role": "user", "content": "{premise} 1. {choice1} 2. {choice2}"},
        {"role": "bot", "content": "Ответ: 1" if shot else "Ответ:"},
    ]
    inputs = {
        "premise": f"Дождь шёл {number} дней.",
        "choice1": "Река вышла из берегов.",
        "choice2": "Трава засохла.",
    }
    return {
        "messages": messages,
        "inputs": inputs,
        "outputs": "1",
        "meta": {"id": number, "task": "effect"},
    }


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


DATA = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/parus/test.jsonl": lines([parus(n) for n in range(3)]),
    "data/parus/prompt.jsonl": lines([parus(n, shot=True) for n in range(10, 12)]),
    "data/rcb/test.jsonl": b"{}\n",
}
MODEL = {path.name: path.read_bytes() for path in BASE.iterdir()} if BASE.is_dir() else {}
STORED = sorted(name for name in DATA if "parus" in name)
