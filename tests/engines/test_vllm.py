"""The vLLM engine against the hf engine in float32, on the built-in models: mini-llama, and
mini-mistral with its sliding window.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lep_bench import files
from lep_bench.config.schema import Conversation
from lep_bench.engines.base import MAX_OPTIONS, Sampling
from lep_bench.engines.hf import HfEngine
from lep_bench.engines.vllm import start
from lep_bench.engines.vllm.engine import VllmEngine
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.evaluate.lmeval import compile_task
from lep_bench.evaluate.score import score_task
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.surgery.propagate import initialise
from lep_bench.testing import pico
from tests.engines.agreement import draws_agree, options_agree, scores_agree, texts_agree

try:
    start.find_installed()
    MISSING = ""
except LepBenchError as error:
    MISSING = str(error)
needs_vllm = pytest.mark.skipif(bool(MISSING), reason=MISSING)
BLOCK = start.CPU_BLOCK
TOLERANCE = 1e-4
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def built_in(name: str) -> Artifact:
    return artifact.open_checkpoint(f"builtin:{name}", name, "instruct", name)


def letters(ids: list[int]) -> str:
    return "".join(chr(ord("a") + i % 26) for i in ids)


def contexts_of(rows: int, *lengths: int) -> list[list[int]]:
    generator = random.Random(str(lengths))
    return [[generator.randrange(rows) for _ in range(n)] for n in lengths]


@pytest.fixture(scope="module", params=["mini-llama/instruct", "mini-mistral/instruct"])
def engines(request: pytest.FixtureRequest) -> Iterator[tuple[VllmEngine, HfEngine, Artifact]]:
    model = built_in(request.param)
    ours, reference = VllmEngine(model.body), HfEngine(model.body)
    for engine in (ours, reference):
        engine.exchange(model)
    yield ours, reference, model
    ours.close()


def lep_variant(folder: Path, instruct: Artifact) -> Artifact:
    """The instruct model under a vocabulary of about 300 tokens; its rows are padded to a multiple
    of 64.
    """
    base = artifact.open_checkpoint("builtin:mini-llama/base", "mini-llama/base", "base", "base")
    lep = Lep(model="variant", fingerprint="variant", kind="patch", stage="instruct-init")
    return initialise(
        instruct.body,
        base.folder,
        pico.donor(folder / "donor", base.folder),
        folder / "variant",
        lep=lep,
    )


def with_loud_padding(folder: Path, model: Artifact) -> Artifact:
    """A whole checkpoint with 64 rows behind the model's own that would win every choice."""
    shutil.copytree(model.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    loud = {name: torch.cat([tensors[name], 20 * tensors[name][:64]]) for name in (EMBEDDING, HEAD)}
    save_file({**tensors, **loud}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**config, "vocab_size": config["vocab_size"] + 64}), encoding="utf-8"
    )
    return Artifact(folder, folder, model.lep)


@needs_vllm
def test_whole_tasks_score_as_with_hf(engines: tuple[VllmEngine, HfEngine, Artifact]) -> None:
    ours, reference, model = engines
    for task in ("mini_facts_ru", "mini_copy_ru", "mini_text_ru"):
        compiled = compile_task(task, model.folder, Conversation(format="chat"), limit=40)
        got, expected = score_task(ours, model, compiled), score_task(reference, model, compiled)
        assert (
            got.requests == expected.requests
            and got.tokens_out == expected.tokens_out
            and got.tokens_in > 0
        )
        for mine, theirs in zip(got.samples, expected.samples, strict=True):
            assert mine.prediction == theirs.prediction and mine.values.get(
                "greedy"
            ) == theirs.values.get("greedy")
            assert mine.values.get("text") == theirs.values.get("text")
            assert mine.values.get("logprobs", []) == pytest.approx(
                theirs.values.get("logprobs", []), abs=TOLERANCE
            )


@needs_vllm
def test_options_at_block_boundaries_in_any_number(
    engines: tuple[VllmEngine, HfEngine, Artifact],
) -> None:
    ours, reference, _ = engines
    rows = reference.real_rows
    contexts = contexts_of(
        rows,
        1,
        1,
        2,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK,
        4 * BLOCK,
        5 * BLOCK,
        100,
        ours.max_length,
    )
    contexts += [contexts[4] + contexts[6], contexts[6][:BLOCK], contexts[6], contexts[4]]
    generator = random.Random(2)
    options = [[generator.randrange(rows) for _ in range(1 + n % 5)] for n in range(len(contexts))]
    options[3], options[8], options[-1] = (
        list(range(2 * MAX_OPTIONS + 7)),
        list(range(rows)),
        [7, 7, 9],
    )
    before = ours.counts.requests
    got, expected = (
        ours.option_logprobs(contexts, options),
        reference.option_logprobs(contexts, options),
    )
    assert ours.counts.requests - before == sum(map(len, options))
    options_agree(reference, contexts, options, got, expected, TOLERANCE)
    assert sum(best for _, best in got[8]) == 1
    assert ours.option_logprobs(contexts, options) == got  # whatever was asked before


@needs_vllm
def test_continuations_whose_context_is_cached_are_computed_again(
    engines: tuple[VllmEngine, HfEngine, Artifact],
) -> None:
    ours, reference, _ = engines
    contexts = contexts_of(
        reference.real_rows, 1, 3, BLOCK - 1, BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 70, 130
    )
    generator = random.Random(4)
    pairs = [
        (c, [generator.randrange(reference.real_rows) for _ in range(1 + n)])
        for c in contexts
        for n in (0, 1, 4, 4, BLOCK)
    ]
    # greedy ones
    pairs += [
        (context, answer)
        for context in contexts[:6]
        for answer in reference.generate([context], 5, [], [], letters)
    ]
    # the same text, cut elsewhere
    pairs += [((c + a)[: len(c) - 2] or c, (c + a)[len(c) - 2 :]) for c, a in pairs[10:30]] + pairs[
        :7
    ]
    whole = contexts_of(reference.real_rows, ours.max_length + 1)[0]
    pairs.append((whole[:200], whole[200:]))
    got = ours.continuation_logprobs(pairs)
    scores_agree(reference, pairs, got, reference.continuation_logprobs(pairs), TOLERANCE)
    assert any(one.greedy for one in got) and not all(one.greedy for one in got)
    # The rows of a cached context are not there: believed, they would be numbers of other requests.
    assert len(ours._score([(tuple(c), tuple(a)) for c, a in pairs], cached=True)) < len(
        set((tuple(c), tuple(a)) for c, a in pairs)
    )


@needs_vllm
def test_generation_equals_hf(engines: tuple[VllmEngine, HfEngine, Artifact]) -> None:
    ours, reference, _ = engines
    rows = reference.real_rows
    contexts = contexts_of(rows, 1, 2, 5, BLOCK, 2 * BLOCK, 60, 100, 150, 236)
    contexts.append(contexts[3])
    for stop_ids, stops, length in [
        ((), [], None),
        (range(0, rows, 9), [], None),
        ((1, 2), ["ab", "q"], None),
        ((), ["e"], None),
        ((), [], 9),
    ]:
        got, expected = (
            engine.generate(contexts, 20, tuple(stop_ids), stops, letters, max_characters=length)
            for engine in (ours, reference)
        )
        texts_agree(reference, contexts, got, expected, tuple(stop_ids), TOLERANCE)
    assert ours.counts.tokens_out > 0 and ours.generate(contexts, 0, (), [], letters) == [[]] * len(
        contexts
    )


@needs_vllm
def test_a_sampled_answer_depends_on_its_context_and_seed_only(
    engines: tuple[VllmEngine, HfEngine, Artifact],
) -> None:
    ours, reference, _ = engines
    contexts = [
        context for context in contexts_of(reference.real_rows, 3, 20, 60) for _ in range(3)
    ]
    seeds = [11, 12, 1 << 70] * 3
    wild = Sampling(1.5, 40, 0.95)
    got = ours.generate(contexts, 8, (), [], letters, wild, seeds)
    assert got == ours.generate(contexts, 8, (), [], letters, wild, seeds)
    draws_agree(got, ours.generate(contexts[::-1], 8, (), [], letters, wild, seeds[::-1])[::-1])
    draws_agree(
        got,
        [
            ours.generate([context], 8, (), [], letters, wild, [seed])[0]
            for context, seed in zip(contexts, seeds, strict=True)
        ],
    )
    assert got[0] != got[1]
    nearly = ours.generate(contexts[::3], 8, (), [], letters, Sampling(1.0, 1), seeds[::3])
    texts_agree(
        reference,
        contexts[::3],
        nearly,
        reference.generate(contexts[::3], 8, (), [], letters),
        within=TOLERANCE,
    )
    with pytest.raises(LepBenchError, match="takes temperatures from 0.01 to 2, not 3.0"):
        ours.generate(contexts, 8, (), [], letters, Sampling(3.0), seeds)
    # Of many draws from four candidates each is drawn, and nothing else.
    first = ours.generate(
        [contexts[0]] * 400, 1, (), [], letters, Sampling(2.0, 4, 1.0), range(400)
    )
    logprobs = [
        value
        for value, _ in reference.option_logprobs([contexts[0]], [range(reference.real_rows)])[0]
    ]
    best = sorted(range(len(logprobs)), key=lambda i: -logprobs[i])[:4]
    assert {row[0] for row in first} == set(best)


@pytest.mark.slow
@needs_vllm
def test_exchange(tmp_path: Path) -> None:
    body = built_in("mini-llama/instruct")
    variant = lep_variant(tmp_path, body)
    ours, reference = VllmEngine(body.body), HfEngine(body.body)
    assert variant.lep.vocabulary_size < 500
    contexts = contexts_of(variant.lep.vocabulary_size, 1, 20, 2 * BLOCK)
    answers = []
    for model in (variant, body):
        for engine in (ours, reference):
            engine.exchange(model)
        assert ours.real_rows == reference.real_rows
        answers.append(same_as_hf(ours, reference, contexts))
    assert answers[0] != answers[1]
    with pytest.raises(
        CheckpointError, match=f"token id {body.lep.vocabulary_size} is outside the vocabulary"
    ):
        ours.option_logprobs([[body.lep.vocabulary_size]], [[1]])
    with pytest.raises(CheckpointError, match="needs an engine of its own"):
        ours.exchange(built_in("mini-mistral/instruct"))
    shutil.copytree(variant.folder, tmp_path / "broken")
    (tmp_path / "broken" / "patch.safetensors").unlink()
    with pytest.raises(LepBenchError):
        ours.exchange(artifact.read_artifact(tmp_path / "broken"))
    assert same_as_hf(ours, reference, contexts) == answers[1]  # what ran goes on
    ours.close()


@needs_vllm
def test_padding_rows_never_win_nor_enter_the_softmax(tmp_path: Path) -> None:
    plain = built_in("mini-llama/instruct")
    padded = with_loud_padding(tmp_path / "padded", plain)
    ours, reference = VllmEngine(padded.body), HfEngine(plain.body)
    contexts = contexts_of(plain.lep.vocabulary_size, 1, 20, 2 * BLOCK)
    loud = HfEngine(padded.body).generate(contexts, 6, (), [], letters)
    assert max(map(max, loud)) >= plain.lep.vocabulary_size  # they would win
    ours.exchange(padded)
    same_as_hf(ours, reference, contexts)
    # more candidates than there are tokens, fewer than rows
    between = plain.lep.vocabulary_size + 20
    assert ours.generate(contexts, 6, (), [], letters, Sampling(1.0, between), range(3))
    ours.close()


def same_as_hf(ours: VllmEngine, reference: HfEngine, contexts: list[list[int]]) -> Any:
    """Asserts it for every kind of question, and gives back what vLLM answered."""
    options = [list(range(9)), [5], list(range(100))]
    got = ours.option_logprobs(contexts, options)
    options_agree(
        reference, contexts, options, got, reference.option_logprobs(contexts, options), TOLERANCE
    )
    pairs = [(contexts[1], [5, 6, 7]), (contexts[2], [8, 9])]
    scores = ours.continuation_logprobs(pairs)
    scores_agree(reference, pairs, scores, reference.continuation_logprobs(pairs), TOLERANCE)
    made = ours.generate(contexts, 6, (), [], letters)
    texts_agree(
        reference,
        contexts,
        made,
        reference.generate(contexts, 6, (), [], letters),
        within=TOLERANCE,
    )
    drawn = ours.generate(contexts, 6, (), [], letters, Sampling(1.0, 1), range(3))
    texts_agree(reference, contexts, drawn, made, within=TOLERANCE)
    assert (
        max(map(max, ours.generate(contexts, 6, (), [], letters, Sampling(2.0), range(3))))
        < ours.real_rows
    )
    return got, scores, made


@pytest.mark.slow
@needs_vllm
def test_one_runs_at_a_time_and_close_leaves_nothing() -> None:
    script = (
        "import psutil\n"
        "from lep_bench.records import artifact\n"
        "from lep_bench.engines.vllm.engine import VllmEngine\n"
        "names = ('mini-llama/instruct', 'mini-mistral/instruct')\n"
        "engines = [VllmEngine(artifact.open_checkpoint(f'builtin:{name}', name, 'instruct', '0').body) "
        "for name in names]\n"
        "first = engines[0].option_logprobs([[5, 6]], [[7]])\n"
        "listening = lambda: [c.laddr.ip for c in psutil.Process().net_connections() if "
        "c.status == 'LISTEN']\n"
        "assert set(listening()) <= {'127.0.0.1', '::1'}, listening()\n"
        "engines[1].option_logprobs([[5, 6]], [[7]])\n"
        "assert engines[0]._host is None and engines[1]._host is not None\n"
        "assert engines[0].option_logprobs([[5, 6]], [[7]]) == first\n"
        "for engine in engines:\n"
        "    engine.close()\n"
        "assert not psutil.Process().children(recursive=True) and not listening()\n"
        "import torch; torch.set_num_threads(1)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=files.PACKAGE.parent,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@needs_vllm
def test_refusals_are_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    body = built_in("mini-llama/instruct").body
    cases = [
        (
            VllmEngine(body, memory=1e-6),
            LepBenchError,
            "not enough memory for .* other GiB for keys and values in a file of configs/hardware",
        ),
        (
            VllmEngine(body, device="cuda"),
            LepBenchError,
            "device cuda was asked for, the installed vLLM is built for cpu",
        ),
        (
            VllmEngine(body, positions=3),
            LepBenchError,
            "4 tokens in one sequence, room was made for 3",
        ),
    ]
    broken = shutil.copytree(body, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-100])
    cases.append((VllmEngine(broken), CheckpointError, "model.safetensors is cut short"))
    for engine, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            engine.option_logprobs([[1, 2, 3, 4]], [[5]])
        assert "\n" not in str(caught.value)
        engine.close()
    engine = VllmEngine(body)
    with pytest.raises(ValueError, match="empty"):
        engine.option_logprobs([[]], [[5]])
    assert engine.option_logprobs([[1]], [[5]])  # a start that failed is in nobody's way
    engine.close()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        VllmEngine(tmp_path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, r"vLLM \(0\.26 to 0\.32\) is not installed: install it"),
        ("0.25.9", "vllm 0.25.9 is installed"),
    ],
)
def test_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: str | None, message: str
) -> None:
    def version(package: str) -> str:
        if found is None:
            raise start.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(start, "version", version)
    with pytest.raises(LepBenchError, match=message):
        VllmEngine(files.PACKAGE / "mini")
