"""Memory that runs out: the batch is halved, the answers are the same but for rounding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lep_bench import files
from lep_bench.engines.base import is_out_of_memory
from lep_bench.engines.hf import Budget
from lep_bench.errors import LepBenchError
from tests.engines.test_hf import make

# A process that may use 150 MiB more than it has: what it is asked would take some GiB in one
# batch.
SCRIPT = """
import random, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lep_bench.engines.hf import HfEngine
from tests.engines.agreement import options_agree, scores_agree, texts_agree
draw = random.Random(1)
contexts = [[draw.randrange(3, 90) for _ in range(100)] for _ in range(2500)]
pairs = [(context, [5, 6, 7 + n % 2]) for n, context in enumerate(contexts) for _ in range(2)]
def ask(engine):
    return (engine.option_logprobs(contexts, [[7, 8]] * len(contexts)), engine.continuation_logprobs(pairs[:2000]),
            engine.generate(contexts[:1500], 3, (), [], str))
judge = HfEngine(Path(sys.argv[1]), batch_tokens=4000)
expected = ask(judge)
engine = HfEngine(Path(sys.argv[1]), batch_tokens=1 << 22)
used = 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")))
resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20), -1))
options, scores, texts = ask(engine)
options_agree(judge, contexts, [[7, 8]] * len(contexts), options, expected[0])
scores_agree(judge, pairs[:2000], scores, expected[1])
texts_agree(judge, contexts[:1500], texts, expected[2])
print(engine.batch.tokens, engine.generation_batch.tokens)
assert 100 <= engine.batch.tokens < 1 << 20 and engine.counts.requests
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="limits the address space as Linux does"
)
def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path: Path) -> None:
    body = make(tmp_path / "body", "llama-untied")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(body)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=files.PACKAGE.parent,
    )
    assert result.returncode == 0, result.stderr


def test_every_index_is_done_once_whatever_fails() -> None:
    lengths, done, tried = [3, 50, 7, 7, 90, 20, 1], list[int](), list[int]()

    def do(batch: list[int]) -> None:
        tried.append(len(batch) * max(lengths[i] for i in batch))
        if tried[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(batch)

    budget = Budget(1000)
    budget.each(lengths, do)
    assert sorted(done) == list(range(len(lengths))) and budget.tokens <= 315 and tried[0] == 630
    tried.clear()
    budget.each(lengths, do)
    assert max(tried) <= 100  # what did not fit once is not tried again


def test_one_sequence_that_is_too_much_and_other_errors_are_told() -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(
        LepBenchError, match="out of memory for one sequence of 70 tokens: free some"
    ):
        Budget(500).each([60, 70], lambda _: fail(MemoryError()))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Budget(500).each([60, 70], lambda _: fail(RuntimeError("shapes do not fit")))
    assert not is_out_of_memory(RuntimeError("shapes")) and is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")
    )
