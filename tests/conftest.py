"""What every test may rely on."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Tests never reach for the network: a Hub id must fail at once and in one line, wherever the tests
# run.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# Forked workers and the tokenizers library's own threads warn about each other.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# pytest-xdist: two processes with two threads each on two cores take ten times as long. Set before
# torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@dataclass(frozen=True)
class Answer:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run have in common; who writes into it takes a lock
    first.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


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
