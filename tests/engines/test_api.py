"""Engine api against servers that fail, lack things or are not what they seem; what a good server
answers is tested in test_api_vllm.py.
"""

from __future__ import annotations

import gzip
import math
import time
from pathlib import Path
from typing import Any

import pytest

from lep_bench import files
from lep_bench.engines import api
from lep_bench.engines.api import ApiEngine, ChatEngine, read_messages, write_messages
from lep_bench.engines.base import Sampling
from lep_bench.engines.hf import HfEngine
from lep_bench.errors import CheckpointError, LepBenchError, TaskError
from lep_bench.evaluate.encode import MessageEncoder
from lep_bench.records import artifact
from tests.engines.agreement import options_agree, scores_agree
from tests.engines.api_server import DRIP, HANG, MODELS, serving

INSTRUCT = files.builtin_checkpoints() / "mini-llama" / "instruct"
CHAT = [
    {"role": "system", "content": "Отвечай кратко."},
    {"role": "user", "content": "Столица?\n\"A\" или 'B'"},
]
SAMPLED = Sampling(0.5, 40, 0.9)


def built_in() -> artifact.Artifact:
    return artifact.open_checkpoint(
        "builtin:mini-llama/instruct", "builtin:mini-llama/instruct", "instruct", "x"
    )


def named(name: str) -> artifact.Artifact:
    return artifact.open_checkpoint(f"api:{name}", f"api:{name}", "baseline", "x")


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- the wire


def test_answers_come_in_the_order_of_the_questions() -> None:
    def reply(path: str, body: Any, number: int) -> tuple[int, Any, dict[str, str]]:
        time.sleep(0.05 if body["n"] % 3 == 0 else 0)
        return 200, {"n": body["n"]}, {}

    with serving(reply) as server:
        assert [
            found["n"] for found in server.client().answers("/x", ({"n": n} for n in range(100)))
        ] == list(range(100))


@pytest.mark.parametrize(
    "first",
    [
        (500, {}, {}),
        (503, b"", {"Retry-After": "3600"}),
        (429, {}, {"Retry-After": "Wed, 01 Jan 2099 00:00:00 GMT"}),
    ],
)
def test_what_may_pass_is_tried_again(first: tuple[int, Any, dict[str, str]]) -> None:
    with serving(
        lambda path, body, number: first if number < 3 else (200, {"ok": number}, {})
    ) as server:
        assert server.client().answer("/x", {}) == {"ok": 3}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            (500, {"error": {"message": "out of memory\nTraceback ..."}}, {}),
            "the server answers 500: out of memory",
        ),
        ((200, b"<html>not JSON", {}), "is no JSON object: '<html>not JSON'"),
        ((200, HANG, {}), "no complete answer within"),
        ((200, DRIP, {}), "no complete answer within"),
        ((200, b"{", {"Content-Length": "100"}), "no complete answer within"),
    ],
)
def test_a_server_that_stays_broken_ends_in_one_line(
    reply: tuple[int, Any, dict[str, str]], said: str
) -> None:
    with serving(lambda path, body, number: reply) as server:
        client = server.client()
        with pytest.raises(LepBenchError) as error:
            client.answers("/completions", [{"n": n} for n in range(5)])
        text = one_line(error)
        assert (
            text.startswith(f"{server.url}/completions: ")
            and said in text
            and "run the same command again" in text
        )
        asked = len(server.asked)
        # it is not waited for a second time
        with pytest.raises(LepBenchError, match="run the same command again"):
            client.answers("/completions", [{}] * 5)
        assert len(server.asked) <= asked + 5  # those that were on their way


def test_nothing_listens() -> None:
    with serving(lambda *_: (200, {}, {})) as server:
        client = server.client()
    with pytest.raises(LepBenchError, match="nothing answers at this address"):
        client.models()


def test_a_refusal_is_not_tried_again() -> None:
    with serving(lambda *_: (400, {"error": {"message": "too long"}}, {})) as server:
        with pytest.raises(api.RefusedError, match="the server answers 400: too long"):
            server.client().answer("/completions", {})
        assert len(server.asked) == 1


def test_the_key_goes_to_the_server_and_into_no_message() -> None:
    with serving(
        lambda path, body, number: (401, {"error": {"message": "wrong key sk-secret"}}, {})
    ) as server:
        with pytest.raises(LepBenchError) as error:
            server.client("sk-secret").models()
        assert server.asked[0][2]["Authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in one_line(error) and "wrong key ***" in str(error.value)
        with pytest.raises(LepBenchError, match="--key-variable"):
            server.client().models()
        assert "Authorization" not in server.asked[-1][2]


def test_redirects_are_not_followed() -> None:
    with serving(lambda *_: (200, MODELS, {})) as other:
        with serving(lambda *_: (307, b"", {"Location": other.url})) as server:
            with pytest.raises(LepBenchError, match="redirects to .*not followed"):
                server.client("sk-secret").models()
        assert not other.asked


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 1 << 20)
    with serving(lambda *_: (200, b" " * (2 << 20), {})) as server:
        with pytest.raises(api.RefusedError, match="the answer has more than 1 MiB"):
            server.client().answer("/x", {})
        assert len(server.asked) == 1


def test_a_packed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(b'{"data": []}')
    with serving(lambda *_: (200, packed, {"Content-Encoding": "gzip"})) as server:
        with pytest.raises(LepBenchError, match="is no JSON object"):
            server.client().answer("/x", {})


def test_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: secret\nAuthorization: Bearer secret")
    with serving(lambda *_: (200, MODELS, {})) as server:
        server.client().models()
        server.client().answer("/x", {})
        sent = [headers for _, _, headers in server.asked]
    assert len(sent) == 2 and "secret" not in repr(sent)
    allowed = {*api.SENT_HEADERS, "accept-encoding"}
    assert {name.lower() for headers in sent for name in headers} <= allowed


def test_proxies_of_the_environment_are_not_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving(lambda *_: (200, MODELS, {})) as server:
        assert [model.name for model in server.client().models()] == ["small"]


@pytest.mark.parametrize("value", [{}, {"data": []}, {"data": [{"name": "x"}]}, {"data": 3}])
def test_no_models(value: Any) -> None:
    with serving(lambda *_: (200, value, {})) as server:
        with pytest.raises(LepBenchError, match="lists no models"):
            server.client().models()


def test_addresses() -> None:
    assert (
        api.check_url("http://127.0.0.1:8000")
        == api.check_url("http://127.0.0.1:8000/v1/")
        == "http://127.0.0.1:8000/v1"
    )
    assert api.check_url("https://host/openai/") == "https://host/openai"
    for url in (
        "127.0.0.1:8000",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "http://host:99999",
    ):
        with pytest.raises(LepBenchError, match="is not the address"):
            api.check_url(url)
    for url in ("http://me:secret@host/v1", "http://host/v1?key=secret"):
        with pytest.raises(LepBenchError, match="no name, password or query") as error:
            api.check_url(url)
        assert "secret" not in str(error.value)
    assert all(
        map(
            api.is_loopback,
            (
                "http://127.0.0.1:1/v1",
                "http://[::1]/v1",
                "http://localhost:8000/v1",
                "http://127.8.9.1",
            ),
        )
    )
    assert not any(
        map(
            api.is_loopback,
            (
                "http://10.0.0.1/v1",
                "https://localhost.example.com/v1",
                "http://127.0.0.1.example.com/v1",
            ),
        )
    )


def test_keys() -> None:
    held = {"OPENAI_API_KEY": "one", "OTHER": "two"}
    assert api.find_key("https://host/v1", None, held) == "one"
    # not what was meant for another host
    assert api.find_key("http://127.0.0.1/v1", None, held) is None
    assert api.find_key("http://127.0.0.1/v1", "OTHER", held) == "two"
    with pytest.raises(LepBenchError, match="readable"):
        api.find_key("http://host/v1", "OTHER", held)
    with pytest.raises(LepBenchError, match="MISSING should hold the key"):
        api.find_key("https://host/v1", "MISSING", held)


# ---- a checkpoint behind a server that knows OpenAI's arguments only
# ----------------------------------------------------


def plain_server(engine: HfEngine, tokenizer: Any, echo: bool = True) -> Any:
    """Answers of `engine` as a server gives them that refuses vLLM's arguments and gives text
    instead of ids.
    """
    known = {
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "logprobs",
        "stop",
        "seed",
        *(["echo"] if echo else []),
    }

    def reply(path: str, body: Any, number: int) -> tuple[int, Any, dict[str, str]]:
        if path == "/v1/models":
            return 200, {"data": [{"id": "mini-llama/instruct"}]}, {}
        if set(body) - known:
            return 400, {"error": {"message": f"unknown argument {min(set(body) - known)}"}}, {}
        ids = body["prompt"]
        with server_lock:
            (new,) = engine.generate(
                [ids],
                body["max_tokens"],
                [tokenizer.eos_token_id],
                body.get("stop", []),
                tokenizer.decode,
            )
            found: dict[str, Any] = {"text": tokenizer.decode(new, skip_special_tokens=True)}
            if body.get("echo"):
                pairs = [(ids[:n], [ids[n]]) for n in range(1, len(ids))]
                scores = [
                    one
                    for (one,) in engine.option_logprobs(
                        [c for c, _ in pairs], [o for _, o in pairs]
                    )
                ]
                rows = [
                    None,
                    *(
                        {tokenizer.decode([t]): v, "?": v if best else 0.0}
                        for (v, best), t in zip(scores, ids[1:], strict=True)
                    ),
                ]
                found["logprobs"] = {
                    "tokens": ["?"] * len(ids),
                    "token_logprobs": [None, *(v for v, _ in scores)],
                    "top_logprobs": rows,
                }
        return (
            200,
            {
                "choices": [found],
                "usage": {"prompt_tokens": len(ids), "completion_tokens": len(new)},
            },
            {},
        )

    import threading

    server_lock = threading.Lock()
    return reply


@pytest.fixture(scope="module")
def mini() -> Any:
    from lep_bench.surgery.tokenizers import loading

    model, engine = built_in(), HfEngine(INSTRUCT)
    engine.exchange(model)
    return model, engine, loading.load_tokenizer(model.folder)[0]


def test_a_plain_server_gives_what_it_can(mini: Any) -> None:
    model, reference, tokenizer = mini
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Повтори: река и лес"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    context = tokenizer(text, add_special_tokens=False)["input_ids"]
    with serving(plain_server(reference, tokenizer)) as server:
        engine = ApiEngine(server.client())
        engine.exchange(model)
        pairs = [
            (context[:9], context[9:13]),
            (context[:12], context[12:13]),
            (context[:9], context[9:13]),
        ]
        scores_agree(
            reference,
            pairs,
            engine.continuation_logprobs(pairs),
            reference.continuation_logprobs(pairs),
        )
        options = [context[:12]], [[5, 300, context[12]]]
        options_agree(
            reference,
            *options,
            engine.option_logprobs(*options),
            reference.option_logprobs(*options),
        )
        made = [
            each.generate([context], 24, [tokenizer.eos_token_id], ["\n"], tokenizer.decode)
            for each in (engine, reference)
        ]
        assert (
            tokenizer.decode(made[0][0]).strip()
            == tokenizer.decode(made[1][0], skip_special_tokens=True).strip()
            != ""
        )
        assert engine.generate([context], 0, [], [], tokenizer.decode) == [[]]
        assert engine.counts.requests == 3 + 3 + 1 + 1 and engine.counts.tokens_in > 0
        assert engine.remarks() == (f"answered by {engine.client.host} as mini-llama/instruct",)
    with serving(plain_server(reference, tokenizer, echo=False)) as server:
        engine = ApiEngine(server.client())
        engine.exchange(model)
        with pytest.raises(
            TaskError, match="gives no log-probabilities of prompts .* only generation tasks"
        ):
            engine.option_logprobs(*options)


def test_a_model_that_is_not_served() -> None:
    with serving(lambda *_: (200, MODELS, {})) as server:
        with pytest.raises(
            CheckpointError,
            match=r"serves small, not builtin:mini-llama/instruct: .*--served-model-name",
        ):
            ApiEngine(server.client()).exchange(built_in())
        with pytest.raises(CheckpointError, match="serves small, not api:large"):
            ChatEngine(server.client()).exchange(named("large"))


def test_a_server_without_token_ids() -> None:
    def reply(path: str, body: Any, number: int) -> tuple[int, Any, dict[str, str]]:
        return (
            (200, {"data": [{"id": "instruct"}]}, {})
            if body is None
            else (422, {"detail": "prompt: str"}, {})
        )

    with serving(reply) as server:
        with pytest.raises(LepBenchError, match="asks in token ids, and this server takes none"):
            ApiEngine(server.client()).exchange(built_in())


def echo_server(damage: Any) -> Any:
    """A server that echoes prompts, every token with log-probability -1; `damage` changes what it
    says.
    """

    def reply(path: str, body: Any, number: int) -> tuple[int, Any, dict[str, str]]:
        if body is None:
            return 200, {"data": [{"id": "mini-llama/instruct"}]}, {}
        if "return_token_ids" in body or "logprob_token_ids" in body:
            return 400, {"error": {"message": "unknown argument"}}, {}
        length = len(body["prompt"])
        logprobs: Any = {
            "tokens": ["?"] * length,
            "token_logprobs": [None, *[-1.0] * (length - 1)],
            "top_logprobs": [None, *[{"?": -1.0}] * (length - 1)],
        }
        choice = {"text": "да", "logprobs": logprobs}
        if length > 3:  # what the server can do is found out with three ids
            damage(choice)
        return 200, {"choices": [choice]}, {}

    return reply


def set_value(name: str, value: Any) -> Any:
    return lambda choice: choice["logprobs"][name].__setitem__(2, value)


@pytest.mark.parametrize(
    "damage",
    [
        set_value("token_logprobs", None),
        set_value("token_logprobs", float("nan")),
        set_value("token_logprobs", 1.0),
        set_value("top_logprobs", None),
        set_value("top_logprobs", {}),
        set_value("top_logprobs", {"?": None}),
        lambda choice: choice["logprobs"]["token_logprobs"].pop(),
        lambda choice: choice["logprobs"]["top_logprobs"].pop(),
        lambda choice: choice.update(logprobs=None),
    ],
)
def test_a_missing_log_probability_is_never_filled_in(damage: Any) -> None:
    pair = ([1, 2], [3, 4])
    with serving(echo_server(lambda choice: None)) as server:
        engine = ApiEngine(server.client())
        engine.exchange(built_in())
        assert [scores.logprobs for scores in engine.continuation_logprobs([pair])] == [(-1, -1)]
    with serving(echo_server(damage)) as server:
        engine = ApiEngine(server.client())
        engine.exchange(built_in())
        with pytest.raises(LepBenchError, match="the answer lacks what was asked for"):
            engine.continuation_logprobs([pair])


@pytest.mark.parametrize(
    "answer", [{"text": None}, {"text": 7}, {}, {"token_ids": None}, {"token_ids": ["1"]}]
)
def test_a_missing_text_is_never_filled_in(answer: Any) -> None:
    def damage(choice: Any) -> None:
        choice.clear()
        choice.update(answer)

    with serving(echo_server(damage)) as server:
        engine = ApiEngine(server.client())
        engine.exchange(built_in())
        with pytest.raises(LepBenchError, match="the answer lacks what was asked for"):
            engine.generate([[1, 2, 3, 4]], 8, [], [], str)


# ---- chat


def chat_server(tokens: Any = None, refuses: tuple[str, ...] = (), content: Any = "Москва") -> Any:
    """A chat server that lists `tokens(messages)` as its first ones, and refuses some arguments."""

    def reply(path: str, body: Any, number: int) -> tuple[int, Any, dict[str, str]]:
        if body is None:
            return 200, {"data": [{"id": "small"}, {"id": "org/small-2"}]}, {}
        for name in refuses:
            if name in body:
                hint = ", use max_completion_tokens" if name == "max_tokens" else ""
                return 400, {"error": {"message": f"Unsupported parameter: {name}{hint}"}}, {}
        listed = tokens(body["messages"]) if tokens and body.get("logprobs") else None
        rows = [{"token": text, "logprob": value} for text, value in listed or ()]
        choice = {
            "message": {"content": content},
            "logprobs": {"content": [{"top_logprobs": rows}]} if rows else None,
            "finish_reason": "stop",
        }
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}, {}

    return reply


def bytes_of(messages: Any, answer_to_come: bool = True) -> tuple[int, ...]:
    return MessageEncoder(Path("api:small")).template_ids(messages, answer_to_come)


def test_messages_come_back_as_they_were() -> None:
    encoder = MessageEncoder(Path("api:small"))
    for messages, to_come in (
        (CHAT, True),
        ([*CHAT, {"role": "assistant", "content": "Ответ: "}], False),
    ):
        text = encoder.render(messages, to_come)
        assert all(message["content"] in text for message in messages)
        assert encoder.encode([text]) == [encoder.template_ids(messages, to_come)]
        assert read_messages(encoder.decode(encoder.encode([text])[0])) == messages
    with pytest.raises(TaskError, match="control character"):
        write_messages([{"role": "user", "content": "a\x01b"}], True)


def test_options_by_their_own_token() -> None:
    listed = [("A", -1.0), (" B", -1.5), ("Ответ", -2.0), (" A", -3.0), ("b", -4.0)]
    with serving(chat_server(lambda messages: listed)) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        pairs = [(bytes_of(CHAT), tuple(option.encode())) for option in (" A", " B")]
        first, second = engine.continuation_logprobs(pairs)
        assert first.total == pytest.approx(math.log(math.exp(-1.0) + math.exp(-3.0)))
        assert second.total == pytest.approx(-1.5)
        assert first.greedy and not second.greedy
        asked = [body for _, body, _ in server.asked if body and body.get("logprobs")]
        assert len(asked) == 1 and asked[0]["messages"] == CHAT and asked[0]["top_logprobs"] == 20
        assert engine.counts.requests == 2
        assert (engine.counts.tokens_in, engine.counts.tokens_out) == (7, 1)


def questions(count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    contexts = [bytes_of([{"role": "user", "content": f"{n}"}]) for n in range(count)]
    return [(context, tuple(option.encode())) for context in contexts for option in ("A", "B")]


@pytest.mark.parametrize(
    ("number", "asked_before"), [(3, 20), (19, 20), (20, 50), (49, 50)], ids=str
)
def test_an_option_that_is_not_listed_fails_the_task(number: int, asked_before: int) -> None:
    """It has no value: the server returned none. The first questions show it before the rest are
    paid for.
    """

    def tokens(messages: Any) -> list[tuple[str, float]]:
        return [("A", -0.1), ("B", -3.0) if messages[0]["content"] != str(number) else ("C", -3.0)]

    with serving(chat_server(tokens)) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        with pytest.raises(
            TaskError, match=f"1 options of {asked_before} questions, such as 'B', .* 'A', 'C':"
        ):
            engine.continuation_logprobs(questions(50))
        assert sum(bool(body and body.get("logprobs")) for _, body, _ in server.asked) == (
            asked_before
        )


@pytest.mark.parametrize("value", [None, "-1.0", True, float("nan"), float("-inf"), 0.5])
def test_what_is_no_log_probability_is_no_answer(value: Any) -> None:
    with serving(chat_server(lambda messages: [("A", value), ("B", -1.0)])) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        with pytest.raises(TaskError, match="no log-probabilities"):
            engine.continuation_logprobs(questions(1))
    with pytest.raises(ValueError, match="is no log-probability"):
        api.read_logprob(value)


@pytest.mark.parametrize(
    ("refuses", "said"),
    [(("logprobs",), "Unsupported parameter: logprobs"), ((), "gives no log-probabilities")],
)
def test_a_chat_server_without_logprobs(refuses: tuple[str, ...], said: str) -> None:
    with serving(chat_server(refuses=refuses)) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        with pytest.raises(TaskError, match=f"{said}.*no options can be compared"):
            engine.continuation_logprobs(questions(2))


def test_running_text_is_no_chat() -> None:
    with serving(chat_server()) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        encoder, before = MessageEncoder(Path("api:small")), len(server.asked)
        for context, text in (
            ((encoder.prefix,), "Жили-были"),
            (encoder.encode(["Вопрос: ..."])[0], " A"),
        ):
            with pytest.raises(TaskError, match="conversations only"):
                engine.continuation_logprobs([(context, tuple(text.encode()))])
        assert len(server.asked) == before


def test_generation_by_chat() -> None:
    with serving(chat_server(refuses=("top_k", "continue_final_message", "max_tokens"))) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("org/small-2"))
        begun = [*CHAT, {"role": "assistant", "content": "Ответ:"}]
        contexts = [bytes_of(CHAT), bytes_of(begun, False), bytes_of(CHAT)]
        found = engine.generate(
            contexts,
            16,
            [],
            ["\n", "1", "2", "3", "4"],
            bytes.decode,
            SAMPLED,
            [1, (1 << 70) + 5, 1],
        )
        assert [bytes(ids).decode() for ids in found] == ["Москва"] * 3
        asked = [body for _, body, _ in server.asked if body][-2:]
        assert {body["seed"] for body in asked} == {1, 5} and all(
            len(body["stop"]) == 4 for body in asked
        )
        expected = {
            "model": "org/small-2",
            "max_completion_tokens": 16,
            "temperature": 0.5,
            "top_p": 0.9,
        }
        assert all(expected.items() <= body.items() for body in asked)
        remarks = " ".join(engine.remarks())
        assert "sampled without top_k 40" in remarks and "begins another" in remarks


@pytest.mark.parametrize("content", [None, 3, ["text"]])
def test_an_answer_without_text_is_not_an_empty_one(content: Any) -> None:
    with serving(chat_server(content=content)) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        with pytest.raises(LepBenchError, match="no text"):
            engine.generate([bytes_of(CHAT)], 16, [], [], bytes.decode)
    with serving(chat_server(content="")) as server:
        engine = ChatEngine(server.client())
        engine.exchange(named("small"))
        assert engine.generate([bytes_of(CHAT)], 16, [], [], bytes.decode) == [[]]
