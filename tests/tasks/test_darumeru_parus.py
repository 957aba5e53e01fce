"""darumeru_parus on the real rows where they are, else on rows of the same form; through lm-eval and through the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lep_bench import testing_pico
from lep_bench.artifact import Artifact, Lep
from lep_bench.config import Conversation
from lep_bench.engines.hf import HfEngine
from lep_bench.errors import TaskError
from lep_bench.evaluate import compile_task, score

SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "darumeru-sample"


def rows(split: str) -> list[dict[str, Any]]:
    user = 'Дано: "{premise}" 1. {choice1} 2. {choice2} Что является следствием?'
    made = []
    for n in range(4):
        bot = "Ответ:" if split == "test" else f"Ответ: {n % 2 + 1}"
        inputs = {"premise": f"Причина {n}.", "choice1": f"Первое {n}.", "choice2": f"Второе {n}."}
        messages = [{"role": "user", "content": user if split == "test" else user.format(**inputs)}, {"role": "bot", "content": bot}]
        made.append(
            {"messages": messages, "inputs": inputs if split == "test" else {}, "outputs": str(n % 2 + 1), "meta": {"task": "effect", "id": n}}
        )
    return made


@pytest.fixture(params=["made", "sample"])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "rows" / "data" / "parus"
    folder.mkdir(parents=True)
    if request.param == "sample" and not SAMPLE.is_dir():
        pytest.skip("the real rows are not here")
    for split in ("test", "prompt"):
        text = (
            (SAMPLE / "parus" / f"{split}.jsonl").read_text(encoding="utf-8")
            if request.param == "sample"
            else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows(split)) + "\n"
        )
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.setenv("LEP_BENCH_DATA", str(tmp_path / "rows"))
    return folder


def load(**metadata: str) -> Any:
    from lm_eval.tasks import TaskManager

    from lep_bench import paths

    manager = TaskManager(include_path=str(paths.folder("tasks")), include_defaults=False, metadata=metadata)
    return manager.load(["darumeru_parus"])["tasks"]["darumeru_parus"]


def answers(first: str, second: str) -> list[tuple[float, bool]]:
    """Log-probabilities of " 1" and " 2" as is, then exchanged, for a model that gives these two answers."""
    return [(-1.0 if option == given else -2.0, option == given) for given in (first, second) for option in ("1", "2")]


def test_oracle_flip_and_one_sided_models(data: Path) -> None:
    task = load()
    assert len(task.eval_docs) == len((data / "test.jsonl").read_text(encoding="utf-8").splitlines())
    for doc in task.eval_docs:
        gold, other = doc["outputs"], {"1": "2", "2": "1"}[doc["outputs"]]
        assert task.process_results(doc, answers(gold, other)) == {"acc": 1.0, "score": 1.0}
        for wrong in ((other, gold), (gold, gold), (other, other)):
            assert task.process_results(doc, answers(*wrong)) == {"acc": 0.0, "score": 0.0}
        tie = [(-1.0, False)] * 4  # to the earlier option, in both orders: never right
        assert task.process_results(doc, tie)["acc"] == 0.0
    assert task.aggregation()["score"]([1.0, 0.0, 0.0, 1.0]) == 0.5
    assert task.higher_is_better() == {"acc": True, "score": True}


def test_prompts_exchange_alternatives_and_put_row_zero_nearest(data: Path) -> None:
    task = load()
    doc, shots = task.eval_docs[0], task.dataset["prompt"]
    seen: list[list[dict[str, str]]] = []

    def template(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        assert not add_generation_prompt
        seen.append(messages)
        return "chat"

    assert task.fewshot_context(doc, 2, apply_chat_template=True, chat_template=template) == ["chat", "chat"]
    for messages in seen:
        assert [m["role"] for m in messages] == ["user", "assistant"] * 3
        assert messages[0]["content"] == shots[1]["messages"][0]["content"]
        assert messages[3]["content"] == shots[0]["messages"][1]["content"]
        assert messages[-1]["content"] == "Ответ:"
    one, two = doc["inputs"]["choice1"], doc["inputs"]["choice2"]
    as_is, exchanged = (messages[-2]["content"] for messages in seen)
    assert as_is.index(one) < as_is.index(two) and exchanged.index(two) < exchanged.index(one)
    plain = task.fewshot_context(doc, 1)[0]
    assert plain == f"{shots[0]['messages'][0]['content']}\n{shots[0]['messages'][1]['content']}\n\n{as_is}\nОтвет:"
    assert "{" not in plain
    with pytest.raises(ValueError, match="shots were asked for"):
        task.fewshot_context(doc, 100)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("conversation", [Conversation(format="plain", shots=1), Conversation(format="chat")])
def test_through_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, conversation: Conversation) -> None:
    folder = tmp_path / "rows" / "data" / "parus"
    folder.mkdir(parents=True)
    for split in ("test", "prompt"):
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows(split)), encoding="utf-8")
    monkeypatch.setenv("LEP_BENCH_DATA", str(tmp_path / "rows"))
    _, instruct = testing_pico.family(tmp_path, kind=kind)
    compiled = compile_task("darumeru_parus", instruct, conversation)
    assert compiled.shots == conversation.shots and compiled.primary == "score"
    assert len(compiled.requests) == 4 * len(compiled.items)
    prompt = compiled.encoder.tokenizer.decode(compiled.ids[0][0])
    assert prompt.endswith("Ответ:")
    assert ("assistant" in prompt.lower()) == (conversation.format == "chat")
    artifact = Artifact(instruct, instruct, Lep(model="pico", fingerprint="0", kind="checkpoint", stage="instruct"))
    engine = HfEngine(instruct)
    engine.exchange(artifact)
    scored = score(engine, artifact, compiled)
    right = [sample.values["score"] for sample in scored.samples]
    assert scored.scores["score"].value == sum(right) / len(right)
    for sample, row in zip(scored.samples, rows("test"), strict=True):
        assert sample.gold == row["outputs"] and "exchanged" in sample.prediction and len(sample.values["logprobs"]) == 4
    with pytest.raises(TaskError, match="do not fit the model's 5"):
        engine.max_length = 5
        score(engine, artifact, compiled)


def test_bad_rows_and_missing_data_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = json.loads((data / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    del broken["outputs"]
    (data / "test.jsonl").write_text("\n" + json.dumps(broken), encoding="utf-8")
    with pytest.raises(ValueError, match=r"test\.jsonl:2: the row has no outputs"):
        load()
    with pytest.raises(FileNotFoundError):
        load(data=str(tmp_path / "nowhere"))
    monkeypatch.delenv("LEP_BENCH_DATA")
    with pytest.raises(OSError, match="set LEP_BENCH_DATA to a local copy"):
        load()
