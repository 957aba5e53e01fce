"""How a suite asks a model: plain or chat, shots, and under protocol paper the listed conversation
formats.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lep_bench import plugin
from lep_bench.config.load import Configs
from lep_bench.config.models import ModelSpec, list_models, select_models
from lep_bench.config.schema import Suite
from lep_bench.errors import ConfigError
from lep_bench.pipeline.plan import choose_scoring
from lep_bench.testing import pico

SUITE = """title: T
families: [fam]
baselines: [one, two]
tasks: [a, b]
protocol: {protocol}
samplings: 5
metadata: {{prompt_characters: 100}}
base: {{format: plain, shots: 5}}
instruct: {{format: chat}}
mean: {{name: {mean}, kind: plain, tasks: {{a: 0, b: 0}}}}
groups: {{First: [a]}}
without:
  No copies: [{without}]
"""
FAMILY = """base: builtin:mini-llama/base
instruct: builtin:mini-llama/instruct
{conversation}
vocabularies: {{extended: {{donor: builtin:mini-llama/base}}}}
"""


def configs(
    folder: Path,
    protocol: str = "paper",
    without: str = "b",
    conversation: str = "conversation: llama3_no_system",
    mean: str = "",
) -> Configs:
    for kind, name, text in (
        (
            "suites",
            "s",
            SUITE.format(
                protocol=protocol,
                without=without,
                mean=mean or ("Micro-Avg" if protocol == "paper" else "of two"),
            ),
        ),
        ("families", "fam", FAMILY.format(conversation=conversation)),
        ("baselines", "one", "model: some/chat\nconversation: openchat_3.5_1210\n"),
        ("baselines", "two", "model: some/base\nformat: plain\n"),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.yaml").write_text(text)
    return Configs.of([folder])


def asked(known: Configs, suite: Suite, name: str) -> tuple[str, int, str]:
    (spec,) = (
        model
        for model in list_models(suite, known, plugin.discover_adapters())
        if model.name == name
    )
    conversation, scoring = choose_scoring(
        suite, spec, known.family("fam") if spec.family else None
    )
    assert (scoring.format, scoring.shots) == (conversation.format, conversation.shots)
    return scoring.format, scoring.shots, scoring.conversation


def test_protocol_paper_asks_in_listed_formats(tmp_path: Path) -> None:
    known = configs(tmp_path)
    suite = known.suite("s")
    assert (suite.mean.name, suite.groups, suite.without, suite.samplings) == (
        "Micro-Avg",
        {"First": ("a",)},
        {"No copies": ("b",)},
        5,
    )
    for name in ("fam/instruct", "fam/extended/conversion", "fam/extended/instruct-init"):
        assert asked(known, suite, name) == ("chat", 0, "llama3_no_system")
    for name in ("fam/base", "fam/extended/donor", "baselines/two"):
        assert asked(known, suite, name) == ("plain", 5, "non_instruct_simple")
    assert asked(known, suite, "baselines/one") == ("chat", 0, "openchat_3.5_1210")
    _, scoring = choose_scoring(suite, ModelSpec("fam/base", "base", "fam"), known.family("fam"))
    told = {
        "prompt_characters": 100,
        "protocol": "paper",
        "sampling_seed": 0,
        "conversation": "non_instruct_simple",
    }
    assert scoring.passed_on() == told and scoring.samplings == 5


def test_models_without_a_listed_format_keep_their_own(tmp_path: Path) -> None:
    known = configs(tmp_path, conversation="description: none named")
    suite = known.suite("s")
    assert asked(known, suite, "fam/instruct") == ("chat", 0, "template")
    base, instruct = pico.family(tmp_path / "pico")
    for folder, wanted in (
        (base, ("plain", "non_instruct_simple")),
        (instruct, ("chat", "template")),
        ("builtin:mini-llama/base", None),
    ):
        (spec,) = select_models([str(folder)], suite, known, plugin.discover_adapters())
        _, scoring = choose_scoring(suite, spec, None)
        assert (scoring.format, scoring.conversation) == (
            wanted or ("plain", "non_instruct_simple")
        )


def test_other_protocols_name_no_format_and_the_mini_keys_are_as_they_were(tmp_path: Path) -> None:
    known = configs(tmp_path, protocol="strict")
    assert asked(known, known.suite("s"), "fam/instruct") == ("chat", 0, "")
    mini = known.suite("mini")
    _, scoring = choose_scoring(
        mini, ModelSpec("mini-llama/instruct", "instruct", "mini-llama"), known.family("mini-llama")
    )
    # What enters the key of a result: fields added later stay out of it at the values they came
    # with.
    assert scoring.model_dump(exclude_defaults=True) == {"protocol": "greedy", "format": "chat"}


def test_mistakes_name_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"s\.yaml:13: without\.No copies: c is not among the suite's tasks: a, b"
    ):
        configs(tmp_path, without="c").suite("s")
    with pytest.raises(
        ConfigError,
        match=r"fam\.yaml:3: conversation: input should be 'llama3', 'llama3_no_system'",
    ):
        configs(tmp_path, conversation="conversation: lama3").family("fam")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"protocol": "strikt"},
            r"s\.yaml:4: protocol: darumeru_rcb and its like know paper and strict, not 'strikt'",
        ),
        (
            {"metadata": "conversation: llama3"},
            r"s\.yaml:5: metadata\.conversation: take it out: strict asks in the model's own chat template",
        ),
        ({"metadata": "protocol: paper"}, r"s\.yaml:5: metadata\.protocol: take it out"),
        (
            {"metadata": "max_length: many"},
            r"s\.yaml:5: metadata\.max_length: 'many' is no whole number above 0",
        ),
        (
            {"metadata": "prompt_characters: -1"},
            r"s\.yaml:5: metadata\.prompt_characters: -1 is no whole number",
        ),
    ],
)
def test_settings_that_no_task_would_heed_are_refused_when_they_are_read(
    tmp_path: Path, fields: dict[str, str], said: str
) -> None:
    given = {"protocol": "strict", "metadata": "prompt_characters: 100", **fields}
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "s.yaml").write_text(
        "title: T\nmodels: [a]\ntasks: [darumeru_rcb]\nprotocol: {protocol}\nmetadata: "
        "{{{metadata}}}\n"
        "mean: {{kind: plain, tasks: {{darumeru_rcb: 0}}}}\n".format(**given)
    )
    with pytest.raises(ConfigError, match=said):
        Configs.of([tmp_path]).suite("s")


def test_micro_avg_is_the_papers_alone(tmp_path: Path) -> None:
    for protocol in ("strict", "greedy"):
        with pytest.raises(
            ConfigError, match=r"s\.yaml:\d+: mean\.name: Micro-Avg is the paper's mean"
        ):
            configs(tmp_path, protocol=protocol, mean="Micro-Avg of two").suite("s")
