"""Engine api against vLLM's own server, on the built-in model: the answers are hf's."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lep_bench import files
from lep_bench.config.schema import Conversation
from lep_bench.engines.api import ApiClient, ApiEngine, ChatEngine, Offer
from lep_bench.engines.base import Sampling
from lep_bench.engines.hf import HfEngine
from lep_bench.engines.vllm import start
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.evaluate.encode import MessageEncoder
from lep_bench.evaluate.lmeval import compile_task
from lep_bench.evaluate.score import score_task
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact
from tests.engines.agreement import options_agree, scores_agree, texts_agree

try:
    start.find_installed()
    MISSING = ""
except LepBenchError as error:
    MISSING = str(error)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
INSTRUCT = files.builtin_checkpoints() / "mini-llama" / "instruct"
TOLERANCE = 1e-4
NAME = "mini-llama/instruct"
ANSWER = [{"role": "user", "content": "Повтори: река и лес"}]
SAMPLED = Sampling(2.0)  # the built-in model is sure of its answers


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server on this machine, in a process of its own."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(INSTRUCT),
        "--served-model-name",
        NAME,
    ]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--kv-cache-memory-bytes",
        str(1 << 28),
    ]
    command += ["--block-size", str(start.CPU_BLOCK)]
    environment = {**os.environ, **start.UNLESS_SET, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    try:
        address, end = f"http://127.0.0.1:{port}/v1", time.monotonic() + 240
        while True:
            try:
                ApiClient(address).models()
                break
            except LepBenchError:
                assert process.poll() is None and time.monotonic() < end, log.read_text(
                    encoding="utf-8", errors="replace"
                )[-3000:]
                time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its engine is a process of its own
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def engines(url: str) -> Iterator[tuple[ApiEngine, HfEngine, Artifact]]:
    model = artifact.open_checkpoint(f"builtin:{NAME}", f"builtin:{NAME}", "instruct", "x")
    ours, reference = ApiEngine(ApiClient(url)), HfEngine(model.body)
    for engine in (ours, reference):
        engine.exchange(model)
    yield ours, reference, model
    ours.close()


def drawn(rows: int, *lengths: int) -> list[list[int]]:
    generator = random.Random(str(lengths))
    return [[generator.randrange(rows) for _ in range(n)] for n in lengths]


def test_what_the_server_gives(engines: tuple[ApiEngine, HfEngine, Artifact]) -> None:
    ours, reference, _ = engines
    assert ours._offer == Offer(exact=True, options=True, echo=True)
    assert ours.info.version.startswith("vllm 0.") and ours.info.device == "127.0.0.1"
    assert ours.max_length == reference.max_length - 2


def test_options_are_hfs(engines: tuple[ApiEngine, HfEngine, Artifact]) -> None:
    ours, reference, _ = engines
    contexts = drawn(reference.real_rows, 1, 31, 32, 64, 200, 64)
    contexts[-1] = contexts[3]  # a question that comes twice
    options = drawn(reference.real_rows, 4, 1, 200, 4, 2, 3)
    options_agree(
        reference,
        contexts,
        options,
        ours.option_logprobs(contexts, options),
        reference.option_logprobs(contexts, options),
        TOLERANCE,
    )


def test_continuations_are_hfs(engines: tuple[ApiEngine, HfEngine, Artifact]) -> None:
    ours, reference, _ = engines
    texts = drawn(reference.real_rows, 2, 33, 64, 65, 254, 40)
    pairs = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
    (greedy,) = reference.generate([texts[5]], 8, [], [], str)
    pairs += [(texts[5], greedy), (texts[5], [*greedy[:-1], greedy[-1] ^ 1]), pairs[1]]
    found = ours.continuation_logprobs(pairs)
    scores_agree(reference, pairs, found, reference.continuation_logprobs(pairs), TOLERANCE)
    assert found[6].greedy and not found[7].greedy


def test_generated_texts_are_hfs(engines: tuple[ApiEngine, HfEngine, Artifact]) -> None:
    ours, reference, model = engines
    compiled = compile_task("mini_copy_ru", model.folder, Conversation(format="chat"), limit=12)
    contexts, decode = [ids for ids, _ in compiled.ids], compiled.encoder.decode
    for ends, stops, new in (
        ([compiled.encoder.eos], ["\n"], 48),
        ([], ["а", " и"], 24),
        ([], [], 5),
        ([], [], 0),
    ):
        made, expected = (
            engine.generate(contexts, new, ends, stops, decode) for engine in (ours, reference)
        )
        texts_agree(reference, contexts, made, expected, ends, TOLERANCE)
    again = [
        ours.generate(contexts[:4], 12, [], [], decode, SAMPLED, [seed, seed + 1, seed, 1 << 100])
        for seed in (3, 3)
    ]
    assert (
        again[0]
        == again[1]
        != [ours.generate([context], 12, [], [], decode)[0] for context in contexts[:4]]
    )


@pytest.mark.parametrize("task", ["mini_facts_ru", "mini_copy_en", "mini_text_ru"])
def test_tasks_score_as_with_hf(engines: tuple[ApiEngine, HfEngine, Artifact], task: str) -> None:
    ours, reference, model = engines
    compiled = compile_task(task, model.folder, Conversation(format="chat"), limit=10)
    found, expected = (score_task(engine, model, compiled) for engine in (ours, reference))
    for name, value in expected.scores.items():
        assert found.scores[name].value == pytest.approx(value.value, abs=TOLERANCE)
    assert [sample.prediction for sample in found.samples] == [
        sample.prediction for sample in expected.samples
    ]


def test_only_what_is_served(engines: tuple[ApiEngine, HfEngine, Artifact]) -> None:
    base = artifact.open_checkpoint(
        "builtin:mini-llama/base", "builtin:mini-llama/base", "base", "x"
    )
    with pytest.raises(CheckpointError, match=f"serves {NAME}, not builtin:mini-llama/base"):
        engines[0].exchange(base)


def test_chat_asks_with_the_servers_template(
    url: str, engines: tuple[ApiEngine, HfEngine, Artifact]
) -> None:
    """The same messages, once rendered here and asked in ids, once left to the server."""
    _, reference, model = engines
    served = artifact.open_checkpoint(f"api:{NAME}", f"api:{NAME}", "baseline", "x")
    chat = ChatEngine(ApiClient(url))
    chat.exchange(served)
    own, theirs = (
        compile_task("mini_copy_ru", folder, Conversation(format="chat"), limit=10)
        for folder in (served.folder, model.folder)
    )
    found, expected = score_task(chat, served, own), score_task(reference, model, theirs)
    assert found.scores["em"].value == expected.scores["em"].value > 0
    assert [sample.values["text"] for sample in found.samples] == [
        sample.values["text"] for sample in expected.samples
    ]
    assert "tokens" not in found.samples[0].values and (found.tokens_in, found.tokens_out) == (
        expected.tokens_in,
        expected.tokens_out,
    )
    _options_as_hf(chat, reference, theirs.encoder)


def _options_as_hf(chat: ChatEngine, reference: HfEngine, encoder: Any) -> None:
    """Of an answer that is begun and one to come: the likeliest tokens as options."""
    for messages, to_come in (
        (ANSWER, True),
        ([*ANSWER, {"role": "assistant", "content": "река и"}], False),
    ):
        (context,) = encoder.encode([encoder.render(messages, to_come)])
        letters = {encoder.decode([n]): n for n in range(reference.real_rows)}
        ((*values,),) = reference.option_logprobs([context], [list(letters.values())])
        ranked = sorted(zip(values, letters, strict=True), reverse=True)[:10]
        stripped = [text.strip() for _, text in ranked]
        options = [
            (value[0], text.strip())
            for value, text in ranked
            if text.strip() and "\ufffd" not in text and stripped.count(text.strip()) == 1
        ]
        assert options
        asked = MessageEncoder(Path("api:x")).template_ids(messages, to_come)
        for (expected, text), got in zip(
            options,
            chat.continuation_logprobs([(asked, tuple(text.encode())) for _, text in options]),
            strict=True,
        ):
            # with another such token further down the list, a little more
            assert got.total == pytest.approx(expected, abs=0.02), text
