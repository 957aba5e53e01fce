"""Sampled generation: the distribution that transformers' own warpers leave, and answers that
depend on nothing else asked.
"""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lep_bench.engines.base import Sampling
from lep_bench.engines.hf import HfEngine, draw_ids, filter_candidates
from tests.engines.agreement import draws_agree, texts_agree

VOCABULARY = 64
PAPER = Sampling(0.1, 40, 0.9)


def letters(ids: list[int]) -> str:
    return "".join(chr(ord("a") + i) for i in ids)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> HfEngine:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    folder = tmp_path_factory.mktemp("body")
    LlamaForCausalLM(
        LlamaConfig(
            **shape, vocab_size=VOCABULARY, max_position_embeddings=128, initializer_range=0.3
        )
    ).save_pretrained(folder)
    return HfEngine(folder)


@pytest.mark.parametrize(
    "sampling",
    [
        PAPER,
        Sampling(1.0, 5, 1.0),
        Sampling(0.7, 0, 0.8),
        Sampling(2.0, 500, 0.05),
        Sampling(1.0, 3, 0.5),
    ],
    ids=str,
)
def test_candidates_are_those_of_transformers(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 200, generator=generator) * 2
    logits[3, 40:44] = logits[3].max() + 1  # four equal best ones
    logits[4, 7:20] = 1.5
    expected = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    expected = TopPLogitsWarper(sampling.top_p)(None, expected).double().softmax(-1)
    ids, probabilities = filter_candidates(logits, sampling)
    ours = torch.zeros(12, 200, dtype=torch.float64).scatter(-1, ids, probabilities)
    # Of equal scores at the border of top_p transformers keeps whichever its sort put last:
    # compared as sorted values there.
    assert torch.allclose(ours.sort(-1).values, expected.sort(-1).values, atol=1e-6)
    distinct = [row for row in range(12) if row not in (3, 4)]
    assert torch.allclose(ours[distinct], expected[distinct], atol=1e-6)


def test_draws_follow_the_distribution() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(0.8, 10, 0.9)
    count = 20_000
    # every part of [0, 1) once: shares must come out to 1 / count
    grid = [(n + 0.5) / count for n in range(count)]
    drawn = draw_ids(logits.expand(count, -1), sampling, grid)
    ids, probabilities = filter_candidates(logits, sampling)
    for token, share in zip(ids[0].tolist(), probabilities[0].tolist(), strict=True):
        assert (drawn == token).sum().item() / count == pytest.approx(share, abs=2 / count)
    assert set(drawn.tolist()) == {
        token
        for token, share in zip(ids[0].tolist(), probabilities[0].tolist(), strict=True)
        if share > 0
    }
    best = int(logits.argmax())
    assert draw_ids(logits, sampling, [0.0]).item() == best
    assert draw_ids(logits, sampling, [1 - 2**-53]).item() in ids[0].tolist()
    assert draw_ids(logits, Sampling(1e-4), [0.999]).item() == best


def test_an_answer_depends_on_its_context_and_seed_only(engine: HfEngine) -> None:
    generator = random.Random(3)
    contexts = [
        [generator.randrange(1, VOCABULARY) for _ in range(generator.randrange(3, 30))]
        for _ in range(9)
    ]
    asked = [(context, seed) for context in contexts for seed in (11, 12, 13)]
    wild = Sampling(1.5, 40, 0.95)

    def answers(questions: list[tuple[list[int], int]]) -> list[list[int]]:
        return engine.generate(
            [c for c, _ in questions], 12, [5], [], letters, wild, [s for _, s in questions]
        )

    whole = answers(asked)
    assert whole == answers(asked)
    draws_agree(whole, answers(asked[::-1])[::-1])
    draws_agree(whole, [answers([question])[0] for question in asked])
    # another seed, another answer
    assert sum(a != b for a, b in zip(whole[::3], whole[1::3], strict=True)) > 4
    greedy = engine.generate(contexts, 12, [5], [], letters)
    # At a temperature of 1e-4 nothing is drawn that lies a hundredth of a nat behind the best.
    texts_agree(
        engine,
        contexts,
        greedy,
        engine.generate(contexts, 12, [5], [], letters, Sampling(1e-4), range(9)),
        [5],
        within=5e-3,
    )
    before = engine.counts.tokens_in
    engine.generate([contexts[0]] * 5, 1, [], [], letters, wild, range(5))
    assert engine.counts.tokens_in - before == len(contexts[0])  # read once for all its seeds


def test_a_row_ends_once_its_text_is_long_enough(engine: HfEngine) -> None:
    contexts = [[7, 8, 9], [3, 30, 31, 32, 33], [60]]
    free = engine.generate(contexts, 40, [], [], letters)
    short = engine.generate(contexts, 40, [], [], letters, max_characters=12)
    assert [len(row) for row in free] == [40] * 3
    assert all(12 < len(letters(ended)) <= 12 + 8 for ended in short)
    texts_agree(
        engine,
        contexts,
        [whole[: len(ended)] for whole, ended in zip(free, short, strict=True)],
        short,
    )
    # Half a letter counts for nothing: it may still become one.
    broken = engine.generate(
        contexts, 40, [], [], lambda ids: "a" * 12 + "�" * len(ids), max_characters=12
    )
    assert broken == free


@pytest.mark.parametrize("wrong", [(0.0, 1, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.5)])
def test_sampling_that_cannot_be_is_refused(wrong: tuple[float, int, float]) -> None:
    with pytest.raises(ValueError, match="temperature > 0, top_k >= 0 and 0 < top_p <= 1"):
        Sampling(*wrong)


def test_the_papers_sampling_is_nearly_greedy(engine: HfEngine) -> None:
    """Temperature 0.1 with top_p 0.9 leaves one candidate wherever the best token has more than
    nine tenths.
    """
    logits = torch.tensor([[4.0, 3.0, 1.0, 0.0]])
    _, probabilities = filter_candidates(logits, PAPER)
    assert probabilities[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    _, probabilities = filter_candidates(torch.tensor([[4.0, 3.95, 1.0, 0.0]]), PAPER)
    assert probabilities[0, 0] == pytest.approx(1 / (1 + 2.718281828 ** (-0.5)), rel=1e-6)
