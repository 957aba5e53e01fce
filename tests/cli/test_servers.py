"""`run` with models behind a server: a baseline api:NAME end to end, and what is refused before
anything is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lep_bench.records.store import read_result
from tests.engines.api_server import serving

SUITE = """title: S
baselines: [clever]
tasks: [mini_copy_ru, mini_text_ru]
protocol: mini
mean: {kind: plain, tasks: {mini_copy_ru: 0}}
"""


def reply(path: str, body: Any, number: int) -> tuple[int, Any, dict[str, str]]:
    """A model that repeats what it is asked to repeat."""
    if body is None:
        return 200, {"data": [{"id": "clever-1"}]}, {}
    text = body["messages"][-1]["content"].partition(": ")[2].partition("\n")[0]
    return (
        200,
        {
            "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5},
        },
        {},
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for kind, name, text in (
        ("suites", "s", SUITE),
        ("baselines", "clever", "model: api:clever-1\nurl: https://example.invalid/v1\n"),
    ):
        (tmp_path / "configs" / kind).mkdir(parents=True)
        (tmp_path / "configs" / kind / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_baseline_behind_a_server(cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with serving(reply) as server:
        typed = [
            "run",
            "--suite",
            "s",
            "--configs",
            "configs",
            "--engine",
            "hf",
            "--workers",
            1,
            "--limit",
            8,
            "--url",
            server.url,
            "--key-variable",
        ]
        done = cli(*typed, "MY_KEY")
        assert done.code == 1 and "conversations only" in " ".join(
            done.err.split() + done.out.split()
        ), done.err
        (copied,) = (place / "runs/s/results").rglob("mini_copy_ru@*.json")
        found = read_result(copied)
        assert found is not None and found.status == "ok" and found.scores["em"].value == 1.0
        where = found.provenance
        assert (where.engine, where.device, where.dtype, where.hardware) == (
            "api",
            "127.0.0.1",
            "unknown",
            {"server": server.url},
        )
        assert where.notes == (f"answered by 127.0.0.1:{server.server_port} as clever-1",) and (
            where.tokens_in,
            where.tokens_out,
        ) == (72, 40)
        assert all(
            headers["Authorization"] == "Bearer sk-very-secret" for _, _, headers in server.asked
        )
        asked = len(server.asked)
        # current: nobody is asked
        assert (
            cli(*typed, "MY_KEY", "--tasks", "mini_copy_ru").code == 0
            and len(server.asked) == asked
        )
    assert not [
        file
        for file in place.rglob("*")
        if file.is_file() and b"sk-very-secret" in file.read_bytes()
    ]
    shown = cli("leaderboard", "--suite", "s", "--configs", "configs")
    assert (
        shown.code == 0
        and shown.out.count("clever") >= 1
        and "engine api, number format unknown" in " ".join(shown.out.split())
    )
    page = (place / "runs/s/leaderboard/README.md").read_text(encoding="utf-8")
    assert f"--engine api --limit 8 --url {server.url}" in page
    (samples,) = (place / "runs/s/samples").rglob("mini_copy_ru@*.jsonl")
    assert "tokens" not in json.loads(samples.read_text(encoding="utf-8").splitlines()[0])["values"]


def test_refused_before_anything_is_asked(cli: Any, place: Path) -> None:
    common = ["run", "--suite", "s", "--configs", "configs", "--limit", 2]
    with serving(reply) as server:
        for more, said in (
            (
                [],
                (
                    "its YAML names https://example.invalid/v1, another machine: prompts go there "
                    "only when you say --url"
                ),
            ),
            (
                ["--url", "https://example.invalid/v1", "--offline"],
                "https://example.invalid/v1 is not on this machine",
            ),
            (
                ["--models", "api:other", "--url", server.url],
                "serves clever-1, not local/api-other",
            ),
            (["--models", "api:other"], "is to be asked at a server: name it with --url"),
            (
                ["--models", "builtin:mini-llama/base", "--url", server.url, "--engine", "hf"],
                "add --engine api",
            ),
            (
                ["--models", "builtin:mini-llama/base", "--url", server.url, "--engine", "api"],
                "serves clever-1, not",
            ),
            (
                ["--url", server.url, "--key-variable", "NOT_SET_HERE"],
                "NOT_SET_HERE should hold the key",
            ),
        ):
            done = cli(*common, *more)
            assert done.code == 2 and said in done.err and done.err.count("\n") == 1, (
                more,
                done.err,
            )
        assert {path for path, _, _ in server.asked} <= {"/v1/models"}
    assert not (place / "runs").exists() or not list((place / "runs").rglob("*.json"))
    shown = cli("list", "models", "--suite", "s", "--configs", "configs")
    assert shown.code == 0 and "baselines/clever" in shown.out
    assert cli(*common, "--dry-run").code == 0
    assert (
        cli("export", "baselines/clever", "out", "--suite", "s", "--configs", "configs").code == 2
    )
    assert cli("prompts", "api:clever-1", "mini_copy_ru").code == 2
