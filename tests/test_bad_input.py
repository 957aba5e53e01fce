"""What a user may get wrong: one clear line with a place in it, exit code 2, no traceback. In
process; nothing is trained.
"""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lep_bench import files
from lep_bench.testing.pico import donor, family

CONFIGS = files.shipped_folder("configs")
needs_checkpoints = pytest.mark.skipif(
    not (files.builtin_checkpoints() / "mini-llama" / "base").is_dir(),
    reason="no shipped checkpoints",
)


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    """Folders base, instruct and donor that belong together; `deep` holds a base and an instruct of
    two layers.
    """
    root = tmp_path_factory.mktemp("pico")
    base, _ = family(root)
    donor(root / "donor", base)
    family(root / "deep", layers=2, seed=3)
    return root


@pytest.fixture
def mistake(cli):
    """Run a command that must end with one line on stderr and exit code 2; gives that line."""

    def run(*arguments: object) -> str:
        done = cli(*arguments)
        assert done.code == 2, done.out + done.err
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
        return done.err

    return run


def damaged(pico: Path, role: str, to: Path, how: str) -> Path:
    """A copy of a pico model, damaged."""
    shutil.copytree(pico / role, to)
    weights = to / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "garbage":
        weights.write_bytes(b"\xff" * 3000)
    elif how == "pickled":
        weights.rename(to / "pytorch_model.bin")
    elif how == "no weights":
        weights.unlink()
    elif how == "no tokenizer":
        (to / "tokenizer.json").unlink()
    elif how == "list config":
        (to / "config.json").write_text("[1]")
    elif how == "missing shard":
        (to / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "one.safetensors", "b": "model.safetensors"}}'
        )
    elif how == "nan":
        tensors = load_file(weights)
        tensors["model.embed_tokens.weight"][5] = torch.nan
        save_file(tensors, weights, metadata={"format": "pt"})
    elif how == "untrained":
        tensors = load_file(weights)
        for name in {"model.embed_tokens.weight", "lm_head.weight"} & set(tensors):
            tensors[name].fill_(0.0)
        save_file(tensors, weights, metadata={"format": "pt"})
    return to


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("cut", "is cut short"),
        ("garbage", "is no safetensors file"),
        ("pickled", "holds pickled weights (pytorch_model.bin)"),
        ("no weights", "no model.safetensors"),
        ("no tokenizer", "has no tokenizer"),
        ("list config", "a JSON object is expected"),
        ("missing shard", "1 of 2 shards are missing (one.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_anything_runs(mistake, pico, tmp_path, how, says):
    folder = damaged(pico, "base", tmp_path / "damaged", how)
    assert says in mistake(
        "run", "--models", f"mini-llama/base,{folder}", "--out", tmp_path / "out", "--dry-run"
    )


@pytest.mark.parametrize("role", ["base", "instruct", "donor"])
def test_adapt_refuses_a_cut_file_in_any_role(mistake, pico, tmp_path, role):
    given = {name: pico / name for name in ("base", "instruct", "donor")}
    given[role] = damaged(pico, role, tmp_path / "cut", "cut")
    assert "is cut short" in mistake("adapt", *given.values(), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut"]


def test_adapt_refuses_an_instruct_model_of_another_body(mistake, pico, tmp_path):
    said = mistake(
        "adapt", pico / "base", pico / "deep" / "instruct", pico / "donor", tmp_path / "out"
    )
    assert "is not tuned from the base" in said and "9 body tensors" in said


def test_a_damaged_donor_is_not_the_adapters_fault(mistake, pico, tmp_path):
    said = mistake(
        "adapt",
        pico / "base",
        pico / "instruct",
        damaged(pico, "donor", tmp_path / "nan", "nan"),
        tmp_path / "out",
    )
    assert (
        f"{tmp_path / 'nan'}: 1 rows of model.embed_tokens.weight hold NaN" in said
        and "the first at id 5" in said
    )
    assert "adapter" not in said


def test_a_missing_folder_is_not_only_a_matter_of_the_network(mistake, pico, tmp_path):
    said = mistake("adapt", "models/base", pico / "instruct", pico / "donor", tmp_path / "out")
    assert (
        "models/base: no such folder here" in said and "cannot reach the Hugging Face Hub" in said
    )
    assert "(empty): no such folder" in mistake(
        "adapt", "", pico / "instruct", pico / "donor", tmp_path / "out"
    )


def test_a_file_where_a_folder_is_needed(mistake, cli, pico, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for arguments in (
        ("run", "--models", "mini-llama/base", "--dry-run", "--out", file),
        ("leaderboard", "--out", file / "x"),
        ("adapt", pico / "base", pico / "instruct", pico / "donor", file / "out"),
        ("export", "mini-llama/base", file / "out", "--out", tmp_path / "runs"),
        ("new", "adapter", "mine", "--to", file),
        ("new", "task", "mine", "--to", file / "x"),
    ):
        assert f"{file} is a file, a folder is needed" in mistake(*arguments)
    assert cli("doctor", "--out", file).code == 1


@needs_checkpoints
def test_two_local_models_of_one_name_are_refused(mistake, pico, tmp_path):
    said = mistake(
        "run",
        "--models",
        f"{pico / 'base'},{pico / 'deep' / 'base'}",
        "--dry-run",
        "--out",
        tmp_path,
    )
    assert "would both be called local/base" in said


@pytest.mark.parametrize(
    ("option", "value"), [("--models", ""), ("--models", " , "), ("--tasks", ""), ("--tasks", ",")]
)
def test_an_empty_list_names_nothing(mistake, tmp_path, option, value):
    assert f"{option} names nothing" in mistake(
        "run", option, value, "--dry-run", "--out", tmp_path
    )


@needs_checkpoints
@pytest.mark.parametrize(
    ("kind", "old", "new", "says"),
    [
        (
            "families/mini-llama",
            "size:",
            "sizes:",
            "vocabularies.bpe.params.sizes: unknown parameter; parameters of bpe: size",
        ),
        (
            "families/mini-llama",
            "  swap:",
            "  swapp:",
            "propagation.swapp: unknown propagation adapter 'swapp': did you mean swap?",
        ),
        (
            "families/mini-llama",
            "  bpe:",
            "  bpee:",
            "vocabularies.bpee.params: unknown vocabulary adapter 'bpee': did you mean bpe?",
        ),
        (
            "suites/mini",
            "mini-mistral",
            "mini-mistal",
            "families: unknown family 'mini-mistal': did you mean mini-mistral",
        ),
        (
            "suites/mini",
            "mini_text_ru",
            "mini_text_rus",
            "tasks: unknown task 'mini_text_rus': did you mean mini_text_ru",
        ),
        (
            "suites/mini",
            "protocol:",
            "protocoll:",
            "protocoll: unknown field 'protocoll': did you mean protocol?",
        ),
    ],
)
def test_a_mistake_in_a_config_names_file_and_line(cli, tmp_path, kind, old, new, says):
    file = tmp_path / f"{kind}.yaml"
    file.parent.mkdir()
    text = (CONFIGS / f"{kind}.yaml").read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = cli(
        "run",
        "--models",
        "mini-llama/*",
        "--configs",
        tmp_path,
        "--dry-run",
        "--out",
        tmp_path / "out",
    )
    lines = done.err.splitlines()
    assert done.code == 2 and len(lines) <= 2 and "Traceback" not in done.err, done.err
    line = next(line for line in lines if says in line)
    number = int(line.split(f"{file}:")[1].partition(":")[0])
    assert (
        old.strip(" :") in text.splitlines()[number - 1]
        or says.partition(":")[0] in text.splitlines()[number - 1]
    )


def test_a_full_disk_while_weights_are_written_is_one_line(mistake, monkeypatch, pico, tmp_path):
    from lep_bench.surgery.weights import patch

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(patch.shards, "write_shard", full)
    said = mistake("adapt", pico / "base", pico / "instruct", pico / "donor", tmp_path / "out")
    assert "the disk is full" in said and not list(tmp_path.iterdir())


def test_too_little_room_is_said_before_the_work(mistake, monkeypatch, pico, tmp_path):
    from lep_bench import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    said = mistake("adapt", pico / "base", pico / "instruct", pico / "donor", tmp_path / "out")
    assert "needs 0.0 GiB, but its disk has 0.0 GiB free" in said and not list(tmp_path.iterdir())


def test_nothing_to_learn_from_is_rank_0(mistake, pico, tmp_path):
    dead = damaged(pico, "base", tmp_path / "dead", "untrained")
    said = mistake(
        "adapt", dead, pico / "instruct", pico / "donor", tmp_path / "out", "--discard-donor-body"
    )
    assert "fit was given no rows (rank 0)" in said and [p.name for p in tmp_path.iterdir()] == [
        "dead"
    ]


def test_a_gpu_that_is_not_there(mistake, pico, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    trio = (pico / "base", pico / "instruct", pico / "donor", tmp_path / "out")
    assert "torch finds no GPU" in mistake("adapt", *trio, "--device", "cuda")
    assert "choose cpu or cuda" in mistake("adapt", *trio, "--device", "tpu")


@pytest.mark.parametrize("text", [b"[]", b'"x"', b"", b'{"a":', b"\xff\xfe"])
def test_a_damaged_result_names_its_file(tmp_path, text):
    from lep_bench.errors import LepBenchError
    from lep_bench.records.store import read_result

    file = tmp_path / "task.json"
    file.write_bytes(text)
    with pytest.raises(LepBenchError, match="task.json: not a result: .*; delete it and run again"):
        read_result(file)
