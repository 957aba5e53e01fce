"""The store of answers: exact, kept a chunk at a time, of one model only, and never in the way of
the work.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lep_bench.engines import cache
from lep_bench.engines.base import Sampling
from lep_bench.engines.cache import StoredEngine, describe_owner, split_chunks
from lep_bench.engines.hf import HfEngine
from lep_bench.records.artifact import Artifact, Lep
from tests.engines.agreement import draws_agree, options_agree, scores_agree, texts_agree

VOCABULARY = 64


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return made(tmp_path / "body")


def made(folder: Path, seed: int = 0) -> Artifact:
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    LlamaForCausalLM(
        LlamaConfig(**shape, vocab_size=VOCABULARY, initializer_range=0.3)
    ).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"a": 1}')
    return Artifact(
        folder,
        folder,
        Lep(
            model="m", fingerprint="0", kind="checkpoint", stage="base", vocabulary_size=VOCABULARY
        ),
    )


def texts(count: int, longest: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


CONTEXTS = [*texts(30, 40, 1), [5], [6], [5]]
OPTIONS = [[3, 4, 5] if i % 2 else [7] for i in range(len(CONTEXTS))]
PAIRS = [
    (context, text) for context in CONTEXTS for text in texts(1 + len(context) % 3, 9, len(context))
]


def everything(engine: StoredEngine | HfEngine) -> list[Any]:
    """Answers of every kind, with equal questions, several continuations of a context, texts of one
    token.
    """
    warm = Sampling(0.8, 10, 0.9)
    return [
        engine.option_logprobs(CONTEXTS, OPTIONS),
        engine.continuation_logprobs(PAIRS),
        engine.generate(CONTEXTS, 12, [1, 2], ["b"], decode),
        engine.generate(
            CONTEXTS, 12, [1, 2], [], decode, warm, [2**63 + i for i in range(len(CONTEXTS))], 20
        ),
        engine.option_logprobs([], []),
    ]


def agree(judge: HfEngine, ours: list[Any], theirs: list[Any]) -> None:
    """Two answers of `everything` that were computed in other batches."""
    options_agree(judge, CONTEXTS, OPTIONS, ours[0], theirs[0])
    scores_agree(judge, PAIRS, ours[1], theirs[1])
    texts_agree(judge, CONTEXTS, ours[2], theirs[2], stop_ids=[1, 2])
    draws_agree(ours[3], theirs[3])
    assert ours[4] == theirs[4] == []


def distinct_options() -> int:
    return sum(
        len(own)
        for _, own in {
            (tuple(context), tuple(own)) for context, own in zip(CONTEXTS, OPTIONS, strict=True)
        }
    )


def decode(ids: list[int]) -> str:
    return "".join(chr(ord("a") + i % 26) for i in ids)


def test_answers_are_the_engines_own_and_come_back_bit_for_bit(
    model: Artifact, tmp_path: Path
) -> None:
    engine = HfEngine(model.body)
    with StoredEngine(engine, model, tmp_path / "responses") as first:
        kept = everything(first)
        assert first.counts.from_store == 0
    # the store asks in chunks and each question once: in other batches
    agree(engine, kept, everything(engine))
    before = (engine.counts.requests, engine.counts.tokens_in, engine.counts.tokens_out)
    with StoredEngine(engine, model, tmp_path / "responses") as again:
        assert everything(again) == kept
        assert again.messages == ()
    assert (engine.counts.requests, engine.counts.tokens_in, engine.counts.tokens_out) == before, (
        "the engine was asked again"
    )
    pairs = {(tuple(context), tuple(text)) for context, text in PAIRS}
    assert engine.counts.from_store == distinct_options() + len(pairs) + len(
        {*map(tuple, CONTEXTS)}
    ) + len(CONTEXTS)
    (file,) = (tmp_path / "responses").glob("*.sqlite")
    said = dict(sqlite3.connect(file).execute("SELECT name, value FROM owner"))
    assert (
        said["model"] == "m"
        and said["engine"] == "hf"
        and said["device"] == "cpu"
        and said["dtype"] == "float32"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"max_new": 5},
        {"stop_ids": [1]},
        {"stop_strings": ["c"]},
        {"max_characters": 4},
        {"sampling": Sampling(0.5), "seeds": [1, 2]},
        {"sampling": Sampling(0.5), "seeds": [1, 3]},
        {"sampling": Sampling(0.6), "seeds": [1, 2]},
    ],
)
def test_other_settings_are_other_questions(model: Artifact, tmp_path: Path, other: dict) -> None:
    settings = {"max_new": 6, "stop_ids": [1, 2], "stop_strings": [], "decode": decode}
    contexts = [[5, 6, 7], [8, 9]]
    with StoredEngine(HfEngine(model.body), model, tmp_path) as engine:
        engine.generate(contexts, **settings)
        engine.option_logprobs([[5, 6], [7]], [[8], [9]])
        engine.generate(contexts, **{**settings, "sampling": Sampling(0.5), "seeds": [5, 6]})
        engine.generate(contexts, **{**settings, **other})
        engine.continuation_logprobs([([5, 6], [8]), ([5], [6, 8])])
        engine.option_logprobs([[5, 6, 8], [5]], [[9], [6, 8]])
        assert engine.counts.from_store == 0
        engine.generate(contexts, **{**settings, **other})
        assert engine.counts.from_store == 2


def test_no_model_is_answered_with_anothers(tmp_path: Path) -> None:
    """The same recipe, name, fingerprint and shape, one bit of the weights apart; another
    tokenizer; another number format.
    """
    first, second = made(tmp_path / "a"), made(tmp_path / "b")
    assert describe_owner(HfEngine(first.body).info, first) == describe_owner(
        HfEngine(second.body).info, second
    ), "a copy has the same answers"
    tensors = load_file(second.body / "model.safetensors")
    tensors["lm_head.weight"].view(torch.int32)[0, 0] ^= 1
    save_file(tensors, second.body / "model.safetensors", metadata={"format": "pt"})
    third = made(tmp_path / "c")
    (third.folder / "tokenizer.json").write_text('{"a": 2}')
    patched = tmp_path / "d"
    patched.mkdir()
    (patched / "tokenizer.json").write_text('{"a": 1}')
    (patched / "config.json").write_bytes((first.body / "config.json").read_bytes())
    save_file({"lm_head.weight": tensors["lm_head.weight"]}, patched / "patch.safetensors")
    patch = Artifact(patched, first.body, first.lep.model_copy(update={"kind": "patch"}))
    fewer = Artifact(
        first.folder, first.body, first.lep.model_copy(update={"vocabulary_size": VOCABULARY - 1})
    )
    float32 = HfEngine(first.body).info
    owners = [
        describe_owner(float32, artifact) for artifact in (first, second, third, patch, fewer)
    ]
    owners.append(describe_owner(HfEngine(first.body, dtype="bfloat16").info, first))
    assert len({tuple(sorted(one.items())) for one in owners}) == len(owners)
    for artifact in (first, second, third):
        with StoredEngine(HfEngine(artifact.body), artifact, tmp_path / "responses") as engine:
            engine.option_logprobs([[5, 6]], [[7]])
            assert engine.counts.from_store == 0
    assert len(list((tmp_path / "responses").glob("*.sqlite"))) == 3


def test_exchange_changes_the_store(tmp_path: Path) -> None:
    first = made(tmp_path / "a")
    fewer = Artifact(
        first.folder, first.body, first.lep.model_copy(update={"vocabulary_size": VOCABULARY - 8})
    )
    engine = StoredEngine(HfEngine(first.body), first, tmp_path / "responses")
    whole = engine.option_logprobs([[5, 6]], [[7]])
    engine.exchange(fewer)
    assert engine.option_logprobs([[5, 6]], [[7]]) != whole
    engine.exchange(first)
    assert engine.option_logprobs([[5, 6]], [[7]]) == whole and engine.counts.from_store == 1
    engine.close()


def test_chunks_are_bounded_and_do_not_part_a_context() -> None:
    questions = [((n % 7, *range(n % 11)), (n,)) for n in range(500)]
    made = split_chunks(questions, 20)
    assert sorted(q for chunk in made for q in chunk) == sorted(questions)
    assert all(len(chunk) <= 20 for chunk in made)
    assert all(
        len({i for i, chunk in enumerate(made) for q in chunk if q[0] == context}) == 1
        for context, _ in questions
    )
    lengths = [len(q[0]) for chunk in made for q in chunk]
    assert lengths == sorted(lengths, reverse=True)
    rolling = [((1,), tuple(range(n % 9 + 1)) + (n,)) for n in range(50)]
    assert [len(chunk) for chunk in split_chunks(rolling, 20)] == [20, 20, 10]
    assert split_chunks([], 5) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from lep_bench.engines import cache as stored
    from lep_bench.engines.hf import HfEngine
    from test_stored import Artifact, Lep, everything, VOCABULARY
    body = Path({body!r})
    model = Artifact(body, body, Lep(model="m", fingerprint="0", kind="checkpoint", stage="base", vocabulary_size=VOCABULARY))
    stored.CHUNK = 8
    engine, calls = HfEngine(body), []
    plain = engine.continuation_logprobs
    def dying(pairs):
        calls.append(pairs)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(pairs)
    engine.continuation_logprobs = dying
    everything(stored.StoredEngine(engine, model, Path({out!r})))
"""


def test_killed_in_the_middle_costs_one_chunk(
    model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHUNK", 8)
    with StoredEngine(HfEngine(model.body), model, tmp_path / "whole") as engine:
        undisturbed = everything(engine)
    # as here: the same bits
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    script = textwrap.dedent(KILLED).format(
        tests=str(Path(__file__).parent), body=str(model.body), out=str(tmp_path / "killed")
    )
    command, root = [sys.executable, "-c", script], Path(__file__).parents[2]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    engine = HfEngine(model.body)
    with StoredEngine(engine, model, tmp_path / "killed") as resumed:
        assert everything(resumed) == undisturbed
        pairs = dict.fromkeys((tuple(context), tuple(text)) for context, text in PAIRS)
        before = sum(map(len, split_chunks(pairs, 8)[:3]))  # the fourth chunk died
        assert resumed.counts.from_store == distinct_options() + before > 40
        assert resumed.messages == ()


def test_a_damaged_file_is_put_aside(model: Artifact, tmp_path: Path) -> None:
    engine = HfEngine(model.body)
    with StoredEngine(engine, model, tmp_path) as first:
        plain = everything(first)
    (file,) = tmp_path.glob("*.sqlite")
    for number, damage in enumerate(
        (b"no database" * 500, file.read_bytes()[:4096] + os.urandom(20_000)), 1
    ):
        file.write_bytes(damage)
        engine.counts.from_store = 0
        with StoredEngine(engine, model, tmp_path) as again:
            assert everything(again) == plain
            (said,) = again.messages
            assert "put aside" in said and str(file) in said and "\n" not in said
        assert len(list(tmp_path.glob("*.damaged-*.sqlite"))) == number
        engine.counts.from_store = 0
        with StoredEngine(engine, model, tmp_path) as healed:
            assert (
                everything(healed) == plain
                and healed.messages == ()
                and healed.counts.from_store > 100
            )


def test_a_flipped_bit_is_asked_again(model: Artifact, tmp_path: Path) -> None:
    asked = [[5, 6], [7]], [[8, 9], [8]]
    with StoredEngine(HfEngine(model.body), model, tmp_path) as first:
        plain = first.option_logprobs(*asked)
    (file,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(file) as database:
        for key, value in database.execute("SELECT key, value FROM answers").fetchall()[:1]:
            database.execute(
                "UPDATE answers SET value = ? WHERE key = ?",
                (bytes([*value[:4], value[4] ^ 64, *value[5:]]), key),
            )
    engine = HfEngine(model.body)
    with StoredEngine(engine, model, tmp_path) as again:
        got = again.option_logprobs(*asked)
        assert (
            again.counts.from_store in (1, 2)
            and again.counts.requests == 3 - again.counts.from_store
        )
    # one of the two was asked again, alone: another batch
    options_agree(engine, *asked, got, plain)
    assert sum(mine == other for mine, other in zip(got, plain, strict=True)) >= 1, (
        "what is sound comes back bit for bit"
    )


def test_somebody_elses_file_is_put_aside_whole(model: Artifact, tmp_path: Path) -> None:
    with StoredEngine(HfEngine(model.body), model, tmp_path) as first:
        first.option_logprobs([[5]], [[8]])
    (file,) = tmp_path.glob("*.sqlite")
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE precious (a)")
        database.execute("INSERT INTO precious VALUES (42)")
    database.close()
    with StoredEngine(HfEngine(model.body), model, tmp_path) as again:
        again.option_logprobs([[5]], [[8]])
        assert "belongs to something else" in again.messages[0]
    (aside,) = tmp_path.glob("*.damaged-1.sqlite")
    assert sqlite3.connect(aside).execute("SELECT a FROM precious").fetchall() == [(42,)]


def test_a_full_disk_loses_nothing(model: Artifact, tmp_path: Path) -> None:
    engine = HfEngine(model.body)
    plain = everything(engine)
    with StoredEngine(engine, model, tmp_path) as full:
        first = full.option_logprobs([[5, 6]], [[7]])
        full._answers._run("PRAGMA max_page_count = 1")  # SQLite's own "database or disk is full"
        assert everything(full) == plain
        (said,) = full.messages
        assert "full" in said and "not kept" in said
    engine.counts.from_store = 0
    with StoredEngine(engine, model, tmp_path) as after:
        assert after.option_logprobs([[5, 6]], [[7]]) == first and after.counts.from_store == 1
    (tmp_path / "file").write_text("in the way")
    with StoredEngine(engine, model, tmp_path / "file") as nowhere:
        assert everything(nowhere) == plain and len(nowhere.messages) == 1


def test_two_processes_may_share_a_file(model: Artifact, tmp_path: Path) -> None:
    one, other = (StoredEngine(HfEngine(model.body), model, tmp_path) for _ in range(2))
    plain = one.option_logprobs([[5, 6]], [[7]])
    assert other.option_logprobs([[5, 6]], [[7]]) == plain and other.counts.from_store == 1
    assert (
        other.option_logprobs([[5]], [[7]]) == one.option_logprobs([[5]], [[7]])
        and one.counts.from_store == 1
    )
    one.close_store()
    other.close_store()
    assert not one.messages and not other.messages


def test_wrong_questions_are_the_engines_to_refuse(model: Artifact, tmp_path: Path) -> None:
    from lep_bench.errors import CheckpointError

    with StoredEngine(HfEngine(model.body), model, tmp_path) as engine:
        with pytest.raises(CheckpointError, match="outside the vocabulary"):
            engine.option_logprobs([[5], [-1]], [[7], [7]])
        with pytest.raises(ValueError, match="empty"):
            engine.continuation_logprobs([([], [4])])


def test_without_a_folder_nothing_is_kept(model: Artifact, tmp_path: Path) -> None:
    engine = HfEngine(model.body)
    with StoredEngine(engine, model, None) as passing:
        assert everything(passing) == everything(engine)
        assert everything(passing) == everything(engine) and passing.counts.from_store == 0
