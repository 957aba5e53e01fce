"""Would a test notice? Each of MUTANTS breaks one thing on purpose, and some test must fail for it.

    python benchmarks/mutants.py [WORD ...]   only the mutants with one of these words in their name

The checkout is copied to a temporary folder and changed there, one mutant at a time. A mutant names
its code by a snippet of one line, which is changed wherever it stands in the package.
Prints `killed` or `SURVIVED` for each, and the seconds. Exit code 1 if any survived or if a snippet
is not found.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = "tests/test_identity.py"
CHOOSE = "tests/leaderboard/test_choose.py"
SOLVER = "tests/surgery/test_leastsquares.py"
OWNER = "tests/engines/test_stored_owner.py"
STORED = "tests/engines/test_stored.py"
INFERENCE = "tests/leaderboard/test_inference.py"
CHECKPOINT = "tests/surgery/test_checkpoint.py"
CHECK = "tests/surgery/test_check.py"
SCORING = "tests/test_answers_read.py tests/test_evaluate.py"
ADAPT = "tests/surgery/test_adapt_identity.py"
SAMPLING = "tests/test_sampling.py"
BOS = "tests/test_encoding.py tests/test_proof.py"
HF = "tests/engines/test_hf.py tests/engines/test_generation.py"

# what breaks | the code | what takes its place | tests that must notice
MUTANTS = [
    # fingerprints
    (
        "an artifact's fingerprint is stage, name and seed",
        "print_ = digest(resolved)",
        "print_ = digest([kind, model, seed])",
        IDENTITY + " -k donor",
    ),
    (
        "parents are no part of a fingerprint",
        '"parents": prints',
        '"parents": {}',
        IDENTITY + " -k donor",
    ),
    (
        "the stage is no part of a fingerprint",
        'resolved = {"stage": kind,',
        "resolved = {",
        "tests/test_identity_values.py",
    ),
    (
        "a stage's revision is no part of a fingerprint",
        '"revision": REVISIONS[kind]',
        '"revision": 0',
        IDENTITY + " -k revision",
    ),
    (
        "a donor's seed is no part of its fingerprint",
        'if kind in ("donor", "tuning"):',
        'if kind == "tuning":',
        IDENTITY + " -k seeds",
    ),
    (
        "a tuning's seed is no part of its fingerprint",
        'if kind in ("donor", "tuning"):',
        'if kind == "donor":',
        IDENTITY + " -k seeds",
    ),
    (
        "an adapter's source is no part of a fingerprint",
        '"source": entry.source_digest',
        '"source": ""',
        IDENTITY + " -k adapter",
    ),
    (
        "an adapter's parameters are no part of a fingerprint",
        '"params": params or {}}',
        '"params": {}}',
        IDENTITY + " -k parameter",
    ),
    (
        "parameters are taken as they are written, without defaults",
        'cls.model_validate(given).model_dump(mode="json")',
        "(cls.model_validate(given), given)[1]",
        IDENTITY + " -k default",
    ),
    (
        "a package's version is no part of its digest",
        "digest(self.origin)",
        'digest("package")',
        IDENTITY + " -k package",
    ),
    (
        "pretraining settings are no part of a donor",
        '"pretraining": family.pretraining.model_dump()',
        '"pretraining": {}',
        IDENTITY + " -k pretraining",
    ),
    (
        "answers are no parent of a tuning",
        'parents["answers"] = answers.id',
        "pass",
        IDENTITY + " -k revision",
    ),
    (
        "the corpus is no part of the answers",
        '{**resolved, "answers": count',
        '{"answers": count',
        IDENTITY + " -k corpus",
    ),
    (
        "a checkpoint's chat template is not hashed",
        '(".safetensors", ".json", ".jinja", ".model")',
        '(".safetensors", ".json", ".model")',
        IDENTITY + " -k instruct",
    ),
    (
        "a checkpoint's weights are not hashed",
        '(".safetensors", ".json", ".jinja", ".model")',
        '(".json", ".jinja", ".model")',
        IDENTITY + " -k weight",
    ),
    (
        "a Hub id's revision is not hashed",
        '{"hub": location, "revision": revision}',
        '{"hub": location}',
        IDENTITY + " -k revision",
    ),
    (
        "a copy in the data folder passes for the Hub's",
        "if held is not None and not held[1]:",
        "if False:",
        IDENTITY + " -k copy",
    ),
    (
        "served models share a fingerprint",
        '{"served": name}',
        '{"served": ""}',
        IDENTITY + " -k served",
    ),
    (
        "the order of a corpus is no input",
        '{"hub": part} for part in parts(corpus)',
        '{"hub": part} for part in sorted(parts(corpus), key=str)',
        IDENTITY + " -k order",
    ),
    (
        "file names are no part of a checkpoint",
        "digest({path.relative_to(root).as_posix(): file_digest(path) for path in sorted(files)})",
        "digest(sorted(file_digest(path) for path in files))",
        IDENTITY + " -k names",
    ),
    # cells
    ("the engine is no part of a cell's key", '"engine": engine,', "", IDENTITY + " -k engine"),
    (
        "the task is no part of a cell's key",
        '"task": task.fingerprint,',
        '"task": task.name,',
        IDENTITY + " -k task",
    ),
    (
        "the seed is no part of a cell's key",
        '{"seed": seed} if seed',
        '{"seed": 1} if seed > 1',
        IDENTITY + " -k seeds",
    ),
    (
        "the scoring revision is no part of a cell's key",
        '"revision": REVISIONS["score"],',
        "",
        IDENTITY + " -k revision",
    ),
    (
        "samplings are no part of a cell's key",
        "samplings=suite.samplings",
        "samplings=1",
        IDENTITY + " -k samplings",
    ),
    (
        "metadata are no part of a cell's key",
        "metadata=suite.metadata",
        "metadata={}",
        IDENTITY + " -k metadata",
    ),
    (
        "the limit is no part of a cell's key",
        "conversation = suite.instruct if chats else suite.base",
        "conversation, limit = suite.instruct if chats else suite.base, None",
        IDENTITY + " -k limit",
    ),
    (
        "the dtype is no part of a cell's key",
        "dtype=suite.dtype,",
        "",
        IDENTITY + " -k dtype",
    ),
    (
        "shots are no part of a cell's key",
        "shots=conversation.shots",
        "shots=0",
        IDENTITY + " -k shots",
    ),
    (
        "a result of another fingerprint is current",
        "if old is None or failed or old.model.fingerprint != record.fingerprint:",
        "if old is None or failed:",
        IDENTITY + " -k current",
    ),
    (
        "a failed result is current",
        "if old is None or failed or old.model.fingerprint != record.fingerprint:",
        "if old is None or old.model.fingerprint != record.fingerprint:",
        IDENTITY + " -k current",
    ),
    (
        "includes are no part of a task",
        'files = {path.name: path for path in self.includes} | {"": self.path}',
        'files = {"": self.path}',
        IDENTITY + " -k includes",
    ),
    (
        "code is no part of a task",
        'if path.suffix == ".py" or (data',
        "if (data",
        IDENTITY + " -k code",
    ),
    (
        "data is no part of a task",
        "(data and (path.name in own or path.name not in others))",
        "False",
        IDENTITY + " -k data",
    ),
    (
        "data that another YAML names is part of a task",
        "path.name in own or path.name not in others",
        "True",
        IDENTITY + " -k data",
    ),
    (
        "rows of the data folder are no part of a task",
        "for path in self._list_local_rows()",
        "for path in ()",
        IDENTITY + " -k rows",
    ),
    (
        "a manifest's revision is not looked at",
        "return bool(entry and revision and entry.is_at(revision))",
        "return bool(entry)",
        IDENTITY + " -k manifest",
    ),
    # which result is shown
    ("stale before current", "rank = (not chosen.stale,", "rank = (chosen.stale,", CHOOSE),
    (
        "failed before scored",
        "chosen.failure is None, result.scoring.limit is None)",
        "chosen.failure is not None, result.scoring.limit is None)",
        CHOOSE,
    ),
    (
        "limited before whole",
        "result.scoring.limit is None)",
        "result.scoring.limit is not None)",
        CHOOSE,
    ),
    ("the oldest of equals", "or rank >= best[cell][0]", "or rank > best[cell][0]", CHOOSE),
    (
        "results in the order in which they lie",
        "key=lambda r: (r.provenance.created, r.key),",
        "key=lambda r: 0,",
        CHOOSE,
    ),
    (
        "engines share a cell",
        "return cls(s.protocol, s.shots, s.format, result.provenance.engine, s.dtype)",
        'return cls(s.protocol, s.shots, s.format, "", s.dtype)',
        CHOOSE,
    ),
    (
        "seeds share a cell",
        "cell = (result.model.name, result.model.seed, result.task",
        "cell = (result.model.name, 0, result.task",
        CHOOSE,
    ),
    # digests of files
    (
        "a digest outlives its file's time",
        "return str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino",
        "return str(path.resolve()), stat.st_size, 0, stat.st_ino",
        "tests/test_fingerprint.py",
    ),
    (
        "a digest outlives its file's inode",
        "return str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino",
        "return str(path.resolve()), stat.st_size, stat.st_mtime_ns, 0",
        "tests/test_fingerprint.py",
    ),
    (
        "a digest outlives its file's size",
        "return str(path.resolve()), stat.st_size, stat.st_mtime_ns",
        "return str(path.resolve()), 10**9 + 0 * stat.st_size, stat.st_mtime_ns",
        "tests/test_fingerprint.py",
    ),
    (
        "any note of a digest is believed",
        "known.items() <= found.items() and",
        "",
        "tests/test_fingerprint.py",
    ),
    (
        "a file just written is remembered",
        "and time.time() - mtime_ns / 1e9 > SETTLED",
        "and time.time() - mtime_ns / 1e9 >= 0",
        "tests/test_fingerprint.py",
    ),
    # answers that were kept
    (
        "kept answers: weights",
        '"weights": digest([*map(file_digest, weights), artifact.lep.vocabulary_size]),',
        "",
        OWNER,
    ),
    (
        "kept answers: real size of the vocabulary",
        "digest([*map(file_digest, weights), artifact.lep.vocabulary_size])",
        "digest([*map(file_digest, weights)])",
        OWNER,
    ),
    (
        "kept answers: tokenizer",
        "{file.name: file_digest(file) for file in texts if",
        "{file.name: 0 for file in texts if",
        OWNER,
    ),
    ("kept answers: engine", '"engine": info.name,', "", OWNER),
    ("kept answers: engine's version", '"version": info.version,', "", OWNER),
    ("kept answers: torch's version", '"torch": torch.__version__,', "", OWNER),
    ("kept answers: device", '"device": name_device(info.device),', "", OWNER),
    ("kept answers: dtype", '"dtype": info.dtype,', "", OWNER),
    ("kept answers: revision", '"revision": str(REVISIONS["score"]),', "", OWNER),
    (
        "kept answers: settings",
        "start = blake2b(json.dumps(settings).encode(), digest_size=16)",
        "start = blake2b(digest_size=16)",
        STORED + " -k other_settings",
    ),
    (
        "kept prompts: tokenizer",
        "lmeval.tokenizer_digest(artifact.folder),",
        "",
        "tests/test_prompts_kept.py",
    ),
    (
        "kept prompts: positions",
        "lmeval.read_positions(artifact.folder),",
        "",
        "tests/test_prompts_kept.py",
    ),
    (
        "kept prompts: shots and format",
        "tasks = state.prompts.setdefault(key, {})",
        "tasks = state.prompts.setdefault(key := key[:2] + key[3:], {})",
        "tests/test_prompts_kept.py",
    ),
    (
        "kept prompts: listed conversation",
        "tasks = state.prompts.setdefault(key, {})",
        "tasks = state.prompts.setdefault(key := key[:3] + key[4:], {})",
        "tests/test_prompts_kept.py",
    ),
    (
        "kept prompts: limit",
        "        asked.limit,",
        "",
        "tests/test_prompts_kept.py",
    ),
    # the solver
    (
        "rcond is a thousand times larger",
        "rcond = max(rows, width) * torch.finfo",
        "rcond = 1000 * max(rows, width) * torch.finfo",
        SOLVER + " -k rounding",
    ),
    (
        "rcond is a thousand times smaller",
        "rcond = max(rows, width) * torch.finfo",
        "rcond = 0.001 * max(rows, width) * torch.finfo",
        SOLVER + " -k rounding",
    ),
    (
        "rcond does not grow with the rows",
        "rcond = max(rows, width) * torch.finfo",
        "rcond = width * torch.finfo",
        SOLVER + " -k rounding",
    ),
    (
        "normal equations whatever the condition",
        "smallest > SAFE * largest",
        "smallest > 0",
        SOLVER,
    ),
    ("every fifth row is held out", "HELD_OUT = 10", "HELD_OUT = 5", SOLVER),
    # statistics
    ("tests at 10%", "ALPHA = 0.05", "ALPHA = 0.1", INFERENCE + " -k verdicts"),
    (
        "Holm: the same factor for all (Bonferroni)",
        "(len(order) - step)))",
        "len(order)))",
        INFERENCE + " -k holm",
    ),
    (
        "Holm: corrected p may fall",
        "min(1.0, max(least, (p[i] or 0.0)",
        "min(1.0, max(0.0, (p[i] or 0.0)",
        INFERENCE + " -k holm",
    ),
    (
        "equal: one end within delta is enough",
        "if -delta <= low and high <= delta:",
        "if -delta <= low or high <= delta:",
        INFERENCE + " -k verdicts",
    ),
    (
        "equal: the ends excluded",
        "if -delta <= low and high <= delta:",
        "if -delta < low and high < delta:",
        INFERENCE + " -k verdicts",
    ),
    (
        "p of exactly alpha is undecided",
        "corrected > stats.ALPHA or not value",
        "corrected >= stats.ALPHA or not value",
        INFERENCE + " -k verdicts",
    ),
    (
        "higher and lower change places",
        '"higher" if value > 0 else "lower"',
        '"lower" if value > 0 else "higher"',
        INFERENCE + " -k verdicts",
    ),
    (
        "sign flips: p without the observed one",
        "(1 + int(count)) / (1 + FLIPS)",
        "int(count) / FLIPS",
        INFERENCE + " -k observed",
    ),
    (
        "sign flips: as extreme does not count",
        ">= total * (1 - 1e-9)",
        "> total * (1 + 1e-9)",
        INFERENCE + " -k counted",
    ),
    (
        "sign test: one-sided",
        "min(1.0, 2 * float(bdtr(fewer, len(u), 0.5)))",
        "min(1.0, float(bdtr(fewer, len(u), 0.5)))",
        INFERENCE + " -k mcnemar",
    ),
    (
        "centred means are plain",
        "own = 1.0 / (1.0 - self.chance[task])",
        "own = 1.0",
        "tests/leaderboard/test_measure.py",
    ),
    (
        "gate: Holm over all alike",
        "stats.ALPHA / (len(found) - step)",
        "stats.ALPHA / len(found)",
        "tests/cli/test_gate.py -k holm_says",
    ),
    (
        "gate: two-sided bound",
        "stdtrit(min(df, 1e9), 1 - level)",
        "stdtrit(min(df, 1e9), 1 - level / 2)",
        "tests/cli/test_gate.py -k holm_says",
    ),
    # rows of an adapted model
    (
        "special tokens keep the donor's rows",
        "if in_block.any():",
        "if False:",
        "tests/surgery/test_propagate.py -k markers",
    ),
    (
        "padding is zero",
        "yield (total / size).to(dtype)",
        "yield (total * 0).to(dtype)",
        "tests/surgery/test_propagate.py -k dense",
    ),
    (
        "special tokens are taken for ordinary ones",
        "opaque = set(self.specials.values())",
        "opaque = set()",
        "tests/surgery/test_problem.py -k specials",
    ),
    (
        "kept tokens count as new",
        "kinds[number] = KEPT",
        "kinds[number] = NEW",
        "tests/surgery/test_decomposition.py -k same_tokenizer",
    ),
    (
        "the row policy is ignored",
        'if policy == "paper":',
        "if False:",
        "tests/surgery/test_propagate.py -k policies",
    ),
    (
        "subtokens are summed",
        "np.repeat(1.0 / np.maximum(lengths, 1), lengths)",
        "np.repeat(1.0, int(lengths.sum()))",
        "tests/surgery/test_decomposition.py -k naive",
    ),
    (
        "untrained rows are learned from",
        "trained[start : start + BLOCK_ROWS] &= (rows",
        "trained[start : start + BLOCK_ROWS] |= (rows",
        "tests/surgery/test_problem.py -k untrained",
    ),
    (
        "only the first end of a text ends it",
        "map_id(key, number) for number in value)",
        "map_id(key, number) for number in value[:1])",
        "tests/surgery/test_propagate.py -k by_field",
    ),
    # scoring
    (
        "the longest stop counts",
        "answer = answer.split(stop)[0]",
        "answer = answer.split(stop)[-1]",
        SCORING,
    ),
    ("a stop string does not end a text", "within or answer != text", "within", SCORING),
    (
        "texts go on after EOS of the tokenizer",
        "eos = [] if encoder.eos is None else [encoder.eos]",
        "eos = []",
        SCORING,
    ),
    (
        "sampled answers are asked for once",
        "seeds=range(samplings if sampled else 1)",
        "seeds=range(1)",
        SAMPLING,
    ),
    (
        "greedy answers are asked for again and again",
        "seeds=range(samplings if sampled else 1)",
        "seeds=range(samplings)",
        SAMPLING,
    ),
    (
        "a sampled answer's seed does not depend on its row",
        'f"{seed} {lmeval.doc_digest(doc)}"',
        'f"{seed}"',
        SAMPLING,
    ),
    ("two BOS pass", "if self.count_bos(ids) > 1:", "if self.count_bos(ids) > 2:", BOS),
    ("a missing BOS passes", "if self.adds_bos and ids[0] != self.bos:", "if False:", BOS),
    (
        "running text gets BOS twice",
        "if ids[:1] != (self.prefix,) else (ids[:1], ids[1:])",
        "if True else (ids[:1], ids[1:])",
        BOS,
    ),
    (
        "log-probabilities are not summed over tokens",
        "Answer((total.total, total.greedy), len(continuation))",
        "Answer((total.logprobs[0], total.greedy), len(continuation))",
        SCORING,
    ),
    (
        "the stop token stands in the text",
        "if token in stop_ids:",
        "if output and token in stop_ids:",
        HF,
    ),
    (
        "top-p keeps one candidate too few",
        "before >= sampling.top_p",
        "before + probabilities >= sampling.top_p",
        HF,
    ),
    (
        "greedy: a tie counts for both",
        "best[best.clone()] = logits[local[best]].argmax(-1) == local_target[best]",
        "pass",
        HF,
    ),
    (
        "a prompt one token too long passes",
        "if length <= positions:",
        "if length <= positions + 1:",
        SCORING,
    ),
    (
        "ends of config.json first",
        'value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")',
        (
            'value = (json.loads((folder / "config.json").read_text(encoding="utf-8"))'
            ' if (folder / "config.json").is_file() else {}).get("eos_token_id")'
            ' or json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")'
        ),
        SCORING,
    ),
    # models that `adapt` makes
    (
        "adapt: parents are no part of the fingerprint",
        '"parents": {parent.role: parent.digest for parent in patched.lep.parents}',
        '"parents": {}',
        ADAPT,
    ),
    (
        "adapt: the method's source is no part",
        '                "source": files.file_digest(adapter.source)',
        '                "source": ""',
        ADAPT,
    ),
    ("adapt: parameters are no part", '"params": parameters,', '"params": {},', ADAPT),
    ("adapt: the policy is no part", '            "policy": policy,', "", ADAPT),
    (
        "adapt: the tokenizer is no part",
        '"tokenizer": files.file_digest(patched.folder / "tokenizer.json")',
        '"tokenizer": ""',
        ADAPT,
    ),
    (
        "adapt: the revision is no part",
        '            "revision": REVISIONS["propagation"],',
        "",
        ADAPT,
    ),
    # what was written
    (
        "scores are not under the seal",
        'exclude={"seal"}, exclude_defaults=True',
        'exclude={"seal", "scores"}, exclude_defaults=True',
        "tests/test_store.py",
    ),
    (
        "changed samples pass",
        "if result.samples_digest not in (None, bytes_digest(data)):",
        "if False:",
        "tests/test_store.py",
    ),
    (
        "results of another schema are read",
        "if version != SCHEMA_VERSION:",
        "if False:",
        "tests/test_store.py " + IDENTITY,
    ),
    # checkpoints, checks and errors
    ("a head is read where config.json ties it", "if tied is None:", "if True:", CHECKPOINT),
    (
        "without a word of config.json the head is never tied",
        "tied = not names",
        "tied = False",
        CHECKPOINT,
    ),
    (
        "a stale head counts as body",
        "name != self.embedding_name and name not in HEADS",
        "name != self.embedding_name",
        CHECKPOINT,
    ),
    (
        "rows are padded to 32",
        "MULTIPLE = 64",
        "MULTIPLE = 32",
        "tests/surgery/test_propagate.py -k dense",
    ),
    (
        "check: rows of the padding may be ten times further off",
        "PADDING = ",
        "PADDING = 10 * ",
        CHECK,
    ),
    ("check: rows may be ten times longer", "OUTLIER = ", "OUTLIER = 10 * ", CHECK),
    ("check: norms may change ten times more", "CHANGE = ", "CHANGE = 10 * ", CHECK),
    (
        "pursuit: nearly dependent anchors are picked",
        "INDEPENDENT = 1e-5",
        "INDEPENDENT = 1e-12",
        "tests/surgery/test_pursuit.py",
    ),
    (
        "errors without the small-sample factor",
        "return math.sqrt(groups / (groups - 1))",
        "return 1.0",
        "tests/leaderboard/test_stats.py",
    ),
    (
        "jackknife: variance divided by n",
        "np.sqrt((n - 1) / n * np.square",
        "np.sqrt(1 / n * np.square",
        "tests/test_evaluate.py -k standard_errors",
    ),
    (
        "items that do not give the score pass",
        "TOLERANCE = 1e-5",
        "TOLERANCE = 1e-2",
        "tests/leaderboard/test_cells.py tests/leaderboard/test_cells_integrity.py",
    ),
    (
        "tuned models are compared with untuned ones",
        'f"{model.family}/instruct{_tuning_suffix(model)}"',
        'f"{model.family}/instruct"',
        "tests/leaderboard/test_contrasts.py",
    ),
    (
        "all sign flips of fewer groups only",
        "MAX_EXACT_GROUPS = 13",
        "MAX_EXACT_GROUPS = 12",
        INFERENCE + " -k counted",
    ),
    (
        "small differences are rounding",
        "NEGLIGIBLE = 1e-13",
        "NEGLIGIBLE = 1e-3",
        INFERENCE + " -k contested",
    ),
]


def main(words: list[str]) -> int:
    """Try the mutants; 0 if every one was killed."""
    chosen = [one for one in MUTANTS if not words or any(word in one[0] for word in words)]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
        for name, old, new, tests in chosen:
            begin = time.monotonic()
            outcome = tried(copy, old, new, shlex.split(tests))
            survived += outcome != "killed"
            print(f"{outcome:<9} {time.monotonic() - begin:6.1f} s  {name}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} mutants killed")
    return int(survived > 0)


def tried(copy: Path, old: str, new: str, tests: list[str]) -> str:
    """Change `old` wherever it stands, run the tests, change it back."""
    places = {file: text(file) for file in (copy / "lep_bench").rglob("*.py") if old in text(file)}
    if not places:
        return "NOT FOUND"
    known = [test for test in tests if not test.endswith(".py") or (copy / test).exists()]
    for file, before in places.items():
        file.write_text(before.replace(old, new), encoding="utf-8")
    try:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--no-header",
            *known,
        ]
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    finally:
        for file, before in places.items():
            file.write_text(before, encoding="utf-8")
    return {0: "SURVIVED", 1: "killed"}.get(done.returncode, f"PYTEST {done.returncode}")


def text(file: Path) -> str:
    """A file's text."""
    return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
