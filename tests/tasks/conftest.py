"""Makes rules, contract and darumeru_rows importable (importlib mode puts no test folder on the
path), and what they share.
"""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from lep_bench import files

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows and no network: tasks are made and score raw rows anywhere."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a task reached for the network")

    monkeypatch.delenv("LEP_BENCH_DATA", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tokenizers by name: shipped ones and small ones, both byte-level and
    sentencepiece.
    """
    from lep_bench.testing.pico import family

    shipped = {
        name: files.builtin_checkpoints() / name / "instruct"
        for name in ("mini-llama", "mini-mistral")
    }
    return shipped | {
        kind: family(tmp_path_factory.mktemp(kind), kind=kind)[1]
        for kind in ("byte-level", "sentencepiece")
    }
