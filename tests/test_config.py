"""Families, suites, and the models that follow from them."""

import json
from pathlib import Path

import pytest

from lep_bench import files, plugin, yamlfile
from lep_bench.config import load, models, schema
from lep_bench.errors import ConfigError, LepBenchError, UnknownNameError


@pytest.fixture(scope="module")
def known():
    return load.Configs.of()


@pytest.fixture(scope="module")
def methods():
    return plugin.discover_adapters()


def names(patterns, known, methods, **more):
    return [
        m.key for m in models.select_models(patterns, known.suite("mini"), known, methods, **more)
    ]


def test_every_shipped_config_parses(known):
    for kind, read in (
        ("families", known.family),
        ("suites", known.suite),
        ("baselines", known.baseline),
    ):
        for name in known.names(kind):
            assert read(name).name == name


def test_all_is_what_the_families_list(known, methods):
    chosen = names(["all"], known, methods)
    assert len(chosen) == len(set(chosen)) == 57
    assert chosen[:3] == [
        "mini-llama/base",
        "mini-llama/instruct",
        "mini-llama/instruct+self-calibration",
    ]
    assert "mini-llama/optimized/conversion+self-calibration" in chosen
    assert "mini-llama/extended/swap+self-calibration" not in chosen
    assert not [name for name in chosen if name.startswith("mini-mistral/optimized")]


def test_patterns_names_and_seeds(known, methods):
    assert names(["mini-llama/extended/swap+self-calibration"], known, methods) == [
        "mini-llama/extended/swap+self-calibration"
    ]
    assert names(["mini-*/bpe/swap"], known, methods) == [
        "mini-llama/bpe/swap",
        "mini-mistral/bpe/swap",
    ]
    assert names(["mini-llama/base", "mini-llama/bpe/donor"], known, methods, seeds=2) == [
        "mini-llama/base",
        "mini-llama/bpe/donor",
        "mini-llama/bpe/donor@seed1",
    ]
    assert all("extended" in name for name in names(["mini-llama/extended/*"], known, methods))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("mini-lama/base", "mini-llama/base"),
        ("mini-llama/bpe/conversoin", "mini-llama/bpe/conversion"),
        ("mini-llama/*/nothing", "unknown model pattern"),
        ("./nowhere", "no such folder"),
    ],
)
def test_unknown_models_are_one_clear_line(known, methods, pattern, says):
    with pytest.raises(LepBenchError, match=says) as error:
        names([pattern], known, methods)
    assert "\n" not in str(error.value)


def test_a_model_of_a_family_beside_the_suites_own_is_no_hub_id(known, methods):
    suite = known.suite("darumeru")
    chosen = models.select_models(
        ["mini-llama/instruct", "mini-mistral/bpe/swap", "some-org/model"], suite, known, methods
    )
    assert [(m.name, m.family) for m in chosen] == [
        ("mini-llama/instruct", "mini-llama"),
        ("mini-mistral/bpe/swap", "mini-mistral"),
        ("local/some-org--model", None),
    ]
    assert {m.family for m in models.select_models(["all"], suite, known, methods)} == set(
        suite.families
    )
    with pytest.raises(UnknownNameError, match="did you mean mini-llama/instruct"):
        models.select_models(["mini-llama/instrct"], suite, known, methods)


def test_a_link_gives_a_folder_another_name(known, methods, tmp_path):
    (tmp_path / "one" / "model").mkdir(parents=True)
    (tmp_path / "two" / "model").mkdir(parents=True)
    (tmp_path / "other").symlink_to(tmp_path / "two" / "model")
    suite = known.suite("mini")
    with pytest.raises(
        LepBenchError,
        match="would both be called local/model: give one of them a name of its own .ln -s",
    ):
        models.select_models(
            [str(tmp_path / "one" / "model"), str(tmp_path / "two" / "model")],
            suite,
            known,
            methods,
        )
    chosen = models.select_models(
        [str(tmp_path / "one" / "model"), str(tmp_path / "other")], suite, known, methods
    )
    assert [(m.name, Path(m.location).parent.name) for m in chosen] == [
        ("local/model", "one"),
        ("local/other", "two"),
    ]


def test_unknown_suite_offers_near_names(known):
    with pytest.raises(UnknownNameError, match="did you mean mini"):
        known.suite("minni")


def test_a_wrong_key_is_named_with_file_line_and_near_names(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("base: a\ninstruct: b\nvocabularies:\n  bpe:\n    parms: {size: 3}\n")
    with pytest.raises(
        ConfigError, match=r"broken\.yaml:5: vocabularies\.bpe\.parms: .*did you mean params"
    ):
        yamlfile.read_yaml(file, schema.Family, name="broken")
    file.write_text("base: [\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml:\d+: not valid YAML"):
        yamlfile.read_yaml(file, schema.Family, name="broken")
    file.write_text("base: a\ninstruct: b\nvocabularies: {}\npretraining: {characters: many}\n")
    with pytest.raises(
        ConfigError,
        match=r"broken\.yaml:4: pretraining\.characters: input should be a valid integer",
    ):
        yamlfile.read_yaml(file, schema.Family, name="broken")


def test_names_never_escape_their_folder(tmp_path):
    for evil in ("..", "../x", "a/../b", "/etc", "a\nb", ".hidden", ""):
        with pytest.raises(LepBenchError):
            files.join_names(tmp_path, evil)
    assert (
        files.join_names(tmp_path, "mini-llama/bpe/swap+tuned")
        == tmp_path / "mini-llama" / "bpe" / "swap+tuned"
    )


def test_the_users_config_takes_the_shipped_ones_place(tmp_path):
    (tmp_path / "families").mkdir()
    text = (files.shipped_folder("configs") / "families" / "mini-llama.yaml").read_text()
    (tmp_path / "families" / "mini-llama.yaml").write_text(
        text.replace("description: ", "description: mine, ")
    )
    assert load.Configs.of([tmp_path]).family("mini-llama").description.startswith("mine, ")
    with pytest.raises(LepBenchError, match="no such folder"):
        load.Configs.of([tmp_path / "nothing"])


def test_a_family_without_a_corpus_has_only_the_tunings_it_lists(known, methods):
    family = known.family("mini-llama").model_copy(update={"corpus": None, "tuning": {}})
    assert not [m for m in models.derive_models(family, methods) if m.tuning]


PAPER_SIZES = {
    ("llama3-8b", "extended"): 174_816,
    ("llama3-8b", "optimized"): 114_504,
    ("mistral-7b", "extended"): 55_328,
}


def test_the_papers_families_have_its_sizes_and_row_policy(known, methods):
    """Totals of arXiv 2412.21140: LLaMa-3 has 128,000 ordinary tokens and 256 specials, Mistral
    32,000 in all.
    """
    for name, old, specials in (("llama3-8b", 128_000, 256), ("mistral-7b", 32_000, 0)):
        family = known.family(name)
        assert family.row_policy == "paper"
        for part, given in family.vocabularies.items():
            params = methods.get("vocabulary", part).adapter.params.model_validate(given.params)
            if part in ("bpe", "unigram"):
                assert params.size == old
            else:
                assert (
                    getattr(params, "keep", old) + params.size + specials == PAPER_SIZES[name, part]
                )


def test_every_row_of_table_1_can_be_planned(known, methods):
    suite = known.suite("paper")
    chosen = [m.name for m in models.select_models(["all"], suite, known, methods)]
    assert {
        "mistral-7b/instruct",
        "llama3-8b/instruct",
        "mistral-7b/extended/conversion",
        "llama3-8b/extended/conversion",
    } <= set(chosen)
    assert [name for name in chosen if name.startswith("baselines/")] == [
        f"baselines/{name}" for name in suite.baselines
    ]
    # Nobody has seen its donor public: it must not stop `all`.
    assert not [name for name in chosen if "/optimized/" in name]
    named = {c.model: c for c in models.list_checkpoints(suite, known)}
    assert named["llama3-8b/base"].gated and not named["mistral-7b/base"].gated
    assert (
        "not seen public" in named["llama3-8b/optimized/donor"].unverified
        and not named["mistral-7b/bpe/donor"].unverified
    )
    assert all(c.parameters and c.parameters > 7e9 for c in named.values())


def write_family(root, **fields):
    """A config folder `root` with a family `mine`; gives its Configs."""
    (root / "families").mkdir(parents=True, exist_ok=True)
    given = {
        "base": "org/base",
        "instruct": "org/instruct",
        "vocabularies": {"bpe": {"donor": "org/donor"}},
        **fields,
    }
    (root / "families" / "mine.yaml").write_text(json.dumps(given, indent=1))
    return load.Configs.of([root])


def test_paths_in_a_family_are_relative_to_its_file(tmp_path, monkeypatch):
    for folder in ("configs/models/base", "configs/families/here/donor", "elsewhere/here/instruct"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs/text.txt").write_text("текст")
    monkeypatch.chdir(tmp_path / "elsewhere")
    mine = {
        "base": "../models/base",
        "vocabularies": {"bpe": {"donor": "here/donor"}},
        "corpus": ["../text.txt", "builtin:mini", "org/texts"],
    }
    family = write_family(tmp_path / "configs", **mine).family("mine")
    assert (
        family.base == str(tmp_path / "configs/models/base") and family.instruct == "org/instruct"
    )
    assert family.vocabularies["bpe"].donor == str(tmp_path / "configs/families/here/donor")
    assert Path(family.corpus[0]).resolve() == tmp_path / "configs/text.txt" and family.corpus[
        1:
    ] == ("builtin:mini", "org/texts")


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../nowhere", "no such folder"),
        ("models", "no such folder"),
        ("", "no such folder"),
        ("here/instruct", "where you are"),
    ],
)
def test_a_path_that_is_not_there_names_file_line_and_field(tmp_path, monkeypatch, location, says):
    (tmp_path / "elsewhere/here/instruct").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    known = write_family(tmp_path / "configs", instruct=location)
    with pytest.raises(ConfigError, match=rf"mine\.yaml:3: instruct: .*{says}"):
        known.family("mine")
