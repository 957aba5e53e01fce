"""What an engine is told to stop at, what of its answer counts, and how long a question may be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lep_bench.engines.base import TokenScores, read_stop_ids
from lep_bench.errors import TaskError
from lep_bench.evaluate import score


class Speaker:
    """An engine that says one thing, and keeps what it was asked."""

    max_length = 8

    def __init__(self, says: list[int]) -> None:
        self.says, self.calls = says, list[dict[str, Any]]()

    def generate(self, contexts, new, stops, texts, decode, sampling, seeds, characters):
        asked = {
            "new": new,
            "stops": stops,
            "texts": texts,
            "seeds": list(seeds),
            "contexts": len(contexts),
        }
        self.calls.append(asked)
        return [self.says for _ in contexts]

    def option_logprobs(self, contexts, options):
        return [[(-1.0, True) for _ in own] for own in options]

    def continuation_logprobs(self, pairs):
        return [TokenScores((-1.0, -0.25, -0.5), True) for _ in pairs]


class Letters:
    """A tokenizer of one character a token; `</s>` is token 2 and the tokenizer's own end."""

    tokenizer, eos = object(), 2

    def split_stops(self, strings):
        return {3} & ({3} if "<end>" in strings else set()), [s for s in strings if s != "<end>"]

    def decode(self, ids):
        return "".join(map(chr, ids))


def request(kind: str = "generate_until", **settings: Any) -> SimpleNamespace:
    settings = {"until": ["<end>", "b", "c"], "max_gen_toks": 4, "do_sample": False, **settings}
    return SimpleNamespace(
        request_type=kind, args=("", settings), task_name="t", doc_id=0, doc={"a": 1}
    )


def asked(
    engine: Speaker,
    *requests: Any,
    ids: tuple = ((1,), ()),
    seeds: tuple[int, ...] = (0,),
    **rest: Any,
) -> list[list[score.Answer]]:
    return score.ask_engine(engine, requests, [ids] * len(requests), Letters(), [9], seeds, **rest)


def test_every_end_stops_a_text() -> None:
    """The model's own ends, the tokenizer's, and stop strings that are one special token."""
    engine = Speaker([97])
    asked(engine, request())
    assert set(engine.calls[0]["stops"]) == {9, 2, 3} and engine.calls[0]["texts"] == ["b", "c"]


@pytest.mark.parametrize(
    ("said", "answer"), [("xaybz", "xay"), ("xcybz", "x"), ("bcx", ""), ("xyz", "xyz")]
)
def test_a_text_ends_before_its_first_stop_string(said: str, answer: str) -> None:
    ((found,),) = asked(Speaker([*map(ord, said)]), request())
    assert found.response == answer and found.tokens == len(said)


def test_sampled_answers_are_asked_for_with_a_seed_per_row_and_round() -> None:
    engine = Speaker([97])
    warm, other = request(do_sample=True, temperature=0.5), request(do_sample=True, temperature=0.5)
    other.doc = {"a": 2}
    asked(engine, warm, other, seeds=(0, 1))
    (call,) = engine.calls
    assert call["contexts"] == 4 and len(set(call["seeds"])) == 4
    asked(engine, warm, seeds=(0, 1))
    assert engine.calls[1]["seeds"] == call["seeds"][:2], "the same whatever else is asked"


def test_greedy_answers_are_asked_for_once_and_count_in_every_round() -> None:
    engine = Speaker([97])
    rounds = asked(engine, request(), seeds=(0, 1, 2))
    assert (
        engine.calls[0]["contexts"] == 1
        and rounds[0] == rounds[1] == rounds[2]
        and len(rounds) == 3
    )


def test_a_continuation_is_scored_by_the_sum_over_its_tokens() -> None:
    pairs = [((1,), (5, 6, 7)), ((1,), (5,)), ((2,), (4,))]
    three, one, alone = score.ask_loglikelihoods(Speaker([]), pairs)
    assert three == score.Answer((-1.75, True), 3)
    assert one.tokens == 1 and alone == score.Answer((-1.0, True), 1)


@pytest.mark.parametrize(
    ("kind", "ids", "fits"),
    [
        ("generate_until", ((1,) * 4, ()), True),
        ("generate_until", ((1,) * 5, ()), False),
        ("loglikelihood", ((1,) * 6, (1,) * 3), True),
        ("loglikelihood", ((1,) * 6, (1,) * 4), False),
    ],
)
def test_prompt_and_answer_must_fit_the_positions(kind: str, ids: tuple, fits: bool) -> None:
    """8 positions: 4 new tokens need 4 of them. The last token of a continuation is never read."""
    if fits:
        asked(Speaker([97]), request(kind), ids=ids)
    else:
        with pytest.raises(TaskError, match="9 tokens.* do not fit the model's 8"):
            asked(Speaker([97]), request(kind), ids=ids)


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [4, 5]}, {"eos_token_id": 6}, (4, 5)),
        ({}, {"eos_token_id": 6}, (6,)),
        (None, {"eos_token_id": [6, 7]}, (6, 7)),
        (None, {}, ()),
    ],
)
def test_the_ends_of_a_checkpoint(
    generation: dict | None, config: dict, ends: tuple[int, ...], tmp_path: Path
) -> None:
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert read_stop_ids(tmp_path) == ends
