"""The proof of the prompts: what it lets through, and every fault that it must not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lep_bench.config.schema import Conversation
from lep_bench.errors import TaskError
from lep_bench.evaluate import proof
from lep_bench.evaluate.encode import Encoder
from lep_bench.evaluate.lmeval import compile_task
from lep_bench.evaluate.prompts import CompiledTask
from lep_bench.testing import pico

CHAT = Conversation(format="chat")
YAML = """
task: {name}
class: !function utils.{kind}
output_type: {output}
test_split: test
doc_to_text: ""
doc_to_target: gold
metric_list: []
metadata: {{version: 1.0}}
"""
# A task of chat messages, as Darumeru's are: it says what it asked, and `spoil` may make another
# text of it.
UTILS = """
from types import SimpleNamespace
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask


class Rows(list):
    features = {"question": None, "gold": None}


class Honest(ConfigurableTask):
    OPTIONS = (" one", " two")
    SHOTS = (0, 0, False)

    def __init__(self, config, **_):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, *_, **__):
        self.dataset = {"test": Rows({"question": f"fox hill {n}?\\n", "gold": "one"} for n in range(5))}

    def messages(self, doc):
        return [
            {"role": "system", "content": "Отвечай кратко"},
            {"role": "user", "content": doc["question"]},
            {"role": "assistant", "content": "Answer:"},
        ]

    def spoil(self, text, doc):
        return text

    def fewshot_context(self, doc, num_fewshot=0, chat_template=None, **_):
        messages = self.messages(doc)
        text = chat_template(messages, add_generation_prompt=False) if chat_template else "".join(m["content"] + " " for m in messages)[:-1]
        return self.spoil(text, doc)

    def asked(self, doc):
        shots, wanted, cut = self.SHOTS
        return SimpleNamespace(conversations=(tuple(self.messages(doc)),), shots=shots, asked_shots=wanted, cut=cut)

    left_out = ["row 7", "row 8"]

    def construct_requests(self, doc, ctx, **kwargs):
        kwargs.pop("apply_chat_template"), kwargs.pop("chat_template")
        if self.OUTPUT_TYPE == "generate_until":
            return [Instance("generate_until", doc, (ctx, {"until": [], "max_gen_toks": 100}), 0, **kwargs)]
        return [Instance("loglikelihood", doc, (ctx, option), n, **kwargs) for n, option in enumerate(self.OPTIONS)]

    def doc_to_prefix(self, doc):
        return None

    def doc_to_target(self, doc, *_):
        return doc["gold"]

    def process_results(self, doc, results):
        return {"score": 1.0}

    def aggregation(self):
        return {"score": lambda values: sum(values) / len(values)}

    def higher_is_better(self):
        return {"score": True}


class Shots(Honest):
    SHOTS = (2, 5, False)


class Cut(Honest):
    SHOTS = (0, 0, True)

    def spoil(self, text, doc):
        return text[-30:]


class Lossy(Honest):
    def spoil(self, text, doc):
        return text.replace(doc["question"].strip(), "") if doc["question"].startswith("fox hill 3") else text


class Exchanged(Honest):
    def messages(self, doc):
        first, second, third = super().messages(doc)
        return [first, second, {"role": "user", "content": "and?"}, third]

    def spoil(self, text, doc):
        return text.replace("and?", "xxx").replace("Отвечай", "and? Отвечай")


class Retouched(Honest):
    def spoil(self, text, doc):
        return text.replace("\\n\\n", "\\n")


class Mute(Honest):
    OPTIONS = (" one", "")


class Long(Honest):
    def messages(self, doc):
        return [*super().messages(doc)[:1], {"role": "user", "content": "собака " * (600 if "2" in doc["question"] else 1)}]

    def fewshot_context(self, doc, num_fewshot=0, chat_template=None, **_):
        return chat_template(self.messages(doc), add_generation_prompt=True)


class Marked(Honest):
    def messages(self, doc):
        first, second, third = super().messages(doc)
        return [first, {**second, "content": "<s> or <|begin_of_text|>?"}, third]


class Missing(Honest):
    def download(self, *_, **__):
        raise OSError("no rows at hand\\nand more")


class Broken(Honest):
    def fewshot_context(self, doc, **_):
        return doc["no such field"]
"""
KINDS = (
    "Honest",
    "Shots",
    "Cut",
    "Lossy",
    "Exchanged",
    "Retouched",
    "Mute",
    "Long",
    "Marked",
    "Missing",
    "Broken",
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")
    for kind in KINDS:
        (folder / f"{kind}.yaml").write_text(
            YAML.format(name=f"proof_{kind.lower()}", kind=kind, output="loglikelihood")
        )
    (folder / "write.yaml").write_text(
        YAML.format(name="proof_write", kind="Honest", output="generate_until")
    )
    return folder


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico.family(tmp_path_factory.mktemp("pico"), kind=request.param)[1]


def compiled(name: str, model: Path, tasks: Path, **rest: Any) -> CompiledTask:
    return compile_task(
        f"proof_{name}", model, rest.pop("conversation", CHAT), task_folders=[tasks], **rest
    )


def with_template(model: Path, folder: Path, change: Any) -> Path:
    """A copy of the model whose chat template is changed."""
    shutil.copytree(model, folder)
    file = folder / "chat_template.jinja"
    if file.is_file():
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({**config, "chat_template": change(config["chat_template"])}),
            encoding="utf-8",
        )
    return folder


def test_good_prompts_pass_and_say_what_they_are(tasks: Path, model: Path) -> None:
    for name in ("honest", "write"):
        made = compiled(name, model, tasks)
        assert not list(proof.find_faults(made)) and not list(proof.find_shortened(made))
        assert made.by_template and made.notes == (
            "2 rows left out, too long for the suite's budget",
        )
        for item in made.items:
            (prompt,) = item.prompts
            assert [message["role"] for message in prompt.messages] == [
                "system",
                "user",
                "assistant",
            ] and not prompt.generation_prompt
            # Independent of the encoder: transformers' own ids of the whole conversation.
            own = made.encoder.tokenizer.apply_chat_template(
                list(prompt.messages),
                tokenize=True,
                continue_final_message=True,
                add_generation_prompt=False,
                return_dict=False,
            )
            assert list(made.ids[item.requests[0]][0]) == own
    plain = compiled("honest", model, tasks, conversation=Conversation(format="plain"))
    assert (
        not plain.by_template
        and plain.items[0].prompts[0].messages is not None
        and not list(proof.find_faults(plain))
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lossy",
            r"task proof_lossy, row 3: the user's text, message 2 of 3, is not in the prompt in its place: 'fox hill 3\?'$",
        ),
        (
            "exchanged",
            r"row 0: the user's text, message 3 of 4, is not in the prompt in its place: 'and\?' \(and 4 more prompts\)",
        ),
        ("mute", r"row 0: the option '' has no token of its own after the prompt"),
        ("long", r"row 2: \d+ tokens do not fit the model's 256$"),
        ("missing", r"task proof_missing \(.*\) cannot be asked: no rows at hand$"),
        (
            "broken",
            r"task proof_broken \(.*Broken\.yaml\) cannot be asked: there is no 'no such field'$",
        ),
    ],
)
def test_faults_stop_a_compilation_by_row(
    tasks: Path, model: Path, name: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        compiled(name, model, tasks)


def test_ids_that_are_not_the_templates_are_found(tasks: Path, tmp_path: Path) -> None:
    _, model = pico.family(tmp_path)
    with pytest.raises(
        TaskError,
        match=r"row 0: the ids differ from the model's own chat template: token \d+ is '.+', the template's '\\n'",
    ):
        compiled("retouched", model, tasks)


def test_templates_that_lose_texts_or_double_bos_are_found(
    tasks: Path, model: Path, tmp_path: Path
) -> None:
    no_system = with_template(
        model,
        tmp_path / "a",
        lambda text: text.replace(
            "for m in messages", "for m in messages if m['role'] != 'system'"
        ),
    )
    with pytest.raises(
        TaskError,
        match="row 0: the system's text, message 1 of 3, is not in the prompt in its place: "
        "'Отвечай кратко'",
    ):
        compiled("honest", no_system, tasks)
    # What the paper's code does at its newest commit with OpenChat: no user text at all.
    no_user = with_template(
        model,
        tmp_path / "b",
        lambda text: text.replace(
            "{{ m['content'] }}", "{{ '' if m['role'] == 'user' else m['content'] }}"
        ),
    )
    with pytest.raises(TaskError, match="row 0: the user's text, message 2 of 3"):
        compiled("honest", no_user, tasks)
    double = with_template(model, tmp_path / "c", lambda text: "{{ bos_token }}" + text)
    with pytest.raises(
        TaskError,
        match=r"row 0: the prompt has 2 BOS tokens: the chat template writes <\S+> 2 times",
    ):
        compiled("honest", double, tasks)
    late = with_template(model, tmp_path / "late", lambda text: " " + text)
    with pytest.raises(
        TaskError,
        match=r"the chat template writes <\S+> behind other text, the tokenizer another in front",
    ):
        compiled("honest", late, tasks)
    with pytest.raises(TaskError, match=r"the row's own text has <\S+> in it"):
        compiled("marked", model, tasks)
    refusing = with_template(
        model, tmp_path / "d", lambda text: "{{ raise_exception('no system role') }}" + text
    )
    with pytest.raises(
        TaskError,
        match="its chat template refuses a conversation of system, user, assistant: no system role",
    ):
        compiled("honest", refusing, tasks)
    for number, words in enumerate(("no system\\nrole, please", "")):
        talking = with_template(
            model,
            tmp_path / f"d{number}",
            lambda text, words=words: "{{ raise_exception('" + words + "') }}" + text,
        )
        with pytest.raises(
            TaskError,
            match=r"a conversation of system, user, assistant: (no system role, please|it does not say why)$",
        ):
            compiled("honest", talking, tasks)
    # A template without BOS: the tokenizer sets it, as lm-eval's own backends do.
    bare = with_template(model, tmp_path / "e", lambda text: text.replace("{{ bos_token }}", ""))
    made = compiled("honest", bare, tasks)
    assert made.ids[0][0][0] == made.encoder.bos and made.ids[0][0].count(made.encoder.bos) == 1


TURN = re.compile(r"{% if add_generation_prompt %}.*{% endif %}", re.DOTALL)


def test_a_text_that_the_template_writes_twice_is_found(
    tasks: Path, model: Path, tmp_path: Path
) -> None:
    doubled = with_template(
        model,
        tmp_path / "twice",
        lambda text: text.replace("{{ m['content'] }}", "{{ m['content'] }} {{ m['content'] }}"),
    )
    with pytest.raises(
        TaskError,
        match=r"row 2: the user's text, message 2 of 2, is in the prompt more often than it is asked: 'собака собака",
    ):
        compiled("long", doubled, tasks, metadata={"max_length": 100_000})
    words = [
        {"role": "user", "content": "Что за слово стоит здесь?"},
        {"role": "user", "content": "user"},
    ]
    # the template's own words
    assert proof.find_misplaced_message("user: Что за слово стоит здесь? user: user", words) is None
    assert (
        proof.find_misplaced_message(
            "Что за слово стоит здесь? user: Что за слово стоит здесь? user", words[:1]
        )
        is not None
    )
    same = [words[0], {"role": "assistant", "content": "Ответ: это"}] * 2
    assert (
        proof.find_misplaced_message("".join(m["content"] for m in same), same) is None
    )  # asked twice


def test_a_turn_that_the_template_does_not_open_is_found(
    tasks: Path, model: Path, tmp_path: Path
) -> None:
    silent = with_template(model, tmp_path / "silent", lambda text: TURN.sub("", text))
    with pytest.raises(
        TaskError,
        match=r"row 0: the model is not told that its turn begins: .* it writes '.*[Aa]ssistant.*' before an answer",
    ):
        compiled("long", silent, tasks, metadata={"max_length": 100_000})
    # ends with the beginning of an answer: the turn is open
    assert compiled("honest", silent, tasks)
    # Nothing stands before an answer, either: the question's end is what opens the turn.
    turns = (
        "{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] != 'assistant' else m['content'] }}"
    )
    brackets = with_template(
        model,
        tmp_path / "brackets",
        lambda _: "{{ bos_token }}{% for m in messages %}" + turns + "{% endfor %}",
    )
    assert compiled("long", brackets, tasks, metadata={"max_length": 100_000})


def test_shots_and_cuts_are_counted_not_refused(tasks: Path, model: Path) -> None:
    made = compiled("shots", model, tasks)
    assert made.notes[0] == (
        "5 of 5 rows asked with fewer shots than wanted, as more did not fit (15 of 25 shots "
        "left out)"
    )
    assert list(proof.find_shortened(made))[0] == "task proof_shots, row 0: 2 of 5 shots fit"
    assert [(item.shots, item.asked_shots) for item in made.items] == [(2, 5)] * 5
    cut = compiled("cut", model, tasks)
    assert cut.notes[0] == "5 of 5 rows cut on the left to fit the model" and all(
        item.cut for item in cut.items
    )
    assert list(cut.ids[0][0]).count(cut.encoder.bos) == 1


def test_length_counts_new_tokens_and_may_be_set(tasks: Path, model: Path) -> None:
    with pytest.raises(
        TaskError, match=r"row 0: \d+ tokens with 100 new tokens do not fit the model's 110"
    ):
        compiled("write", model, tasks, metadata={"max_length": 110})
    made = compiled("long", model, tasks, metadata={"max_length": 100_000})
    assert made.max_length == made.positions == 100_000


def test_a_model_without_template_is_offered_the_choice(tasks: Path, tmp_path: Path) -> None:
    base, _ = pico.family(tmp_path)
    with pytest.raises(
        TaskError,
        match=r"no chat template: ask it as plain text .*`conversation: llama3_no_system`; known: llama3, ",
    ):
        compiled("honest", base, tasks)
    # the task renders it: no template is needed
    listed = compiled("honest", base, tasks, metadata={"conversation": "mistral"})
    assert not listed.by_template
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "stock.yaml").write_text(
        "task: stock\noutput_type: loglikelihood\ndoc_to_text: question\ndoc_to_target: "
        "gold\ntest_split: test\n"
        "custom_dataset: !function utils.rows\nmetric_list: [{metric: acc}]\n"
    )
    (tmp_path / "tasks" / "utils.py").write_text(
        "import datasets\ndef rows(**_):\n    return {'test': "
        "datasets.Dataset.from_list([{'question': 'fox', 'gold': ' hill'}])}\n"
    )
    with pytest.raises(TaskError, match="task stock knows no listed conversation formats"):
        compile_task(
            "stock",
            base,
            CHAT,
            task_folders=[tmp_path / "tasks"],
            metadata={"conversation": "mistral"},
        )


def test_pieces_are_readable(model: Path) -> None:
    encoder = Encoder(model)
    ids = encoder.encode_plain(["Рыжая лиса\n"])[0]
    pieces = encoder.spell(ids)
    if not any("\\x" in piece for piece in pieces):
        assert "".join(pieces).strip() == "Рыжая лиса"
    assert (
        encoder.spell([encoder.bos]) == [encoder.tokenizer.bos_token]
        and encoder.bos in encoder.special_ids
    )
    assert not encoder.special_ids & set(ids)
