"""What every test may rely on."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

# Tests never reach for the network: a Hub id must fail at once and in one line, wherever the tests
# run.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# Forked workers and the tokenizers library's own threads warn about each other.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True)
class Answer:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Answer]]:
    """Run `lep-bench ARGUMENTS` in this process, exactly as the console script does."""
    from lep_bench.cli import main

    before = dict(os.environ)  # --data and --offline set variables for the workers to inherit

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["lep-bench", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        text = capsys.readouterr()
        return Answer(code, text.out, text.err)

    yield run
    os.environ.clear()
    os.environ.update(before)
