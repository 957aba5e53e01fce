"""What `lep-bench new` writes. @NAME@ is the adapter's or family's name, @FUNCTION@ a Python name made of it."""

from __future__ import annotations

PROPAGATION = '''\
"""@NAME@: say here in one line what the method does."""

from lep_bench.plugin import Params, propagation


class Settings(Params):
    """Set in a family's YAML: `propagation: {@NAME@: {strength: 0.5}}`. Every field needs a default."""

    strength: float = 1.0


@propagation("@NAME@")
def @FUNCTION@(problem, params: Settings):
    """The donor's rows, moved by what instruction tuning did to the shared tokens on average.

    Source: cite the paper or page the method comes from. This example is after task arithmetic (arXiv 2212.04089).
    """
    # Called once for the input embedding and once for the head (problem.matrix says which). `overlap` pairs (new id,
    # old id) of the tokens in both vocabularies; base_at and instruct_at take old ids, donor_at takes new ones, and
    # all give float64 rows [n, d]. For a linear map: problem.fit(problem.mixed("base"), problem.mixed("instruct")).
    old_ids = problem.overlap[:, 1]
    move = (problem.instruct_at(old_ids) - problem.base_at(old_ids)).mean(dim=0)
    # The function gets blocks of donor rows [n, d] with their new ids [n], and gives back the new rows [n, d].
    return lambda donor_rows, ids: donor_rows + params.strength * move
'''

VOCABULARY = '''\
"""@NAME@: say here in one line what the vocabulary is like."""

from lep_bench.plugin import Params, vocabulary


class Settings(Params):
    """Set in a family's YAML: `vocabularies: {@NAME@: {params: {size: 8000}}}`. Every field needs a default."""

    size: int = 1000  # ordinary tokens, the 256 byte tokens included
    characters: int = 1_000_000_000  # text is read up to this many characters


@vocabulary("@NAME@")
def @FUNCTION@(base, texts, params: Settings):
    """A new BPE vocabulary, learned from lines that hold a Cyrillic letter.

    Source: cite the paper or page the method comes from. This example is nobody's.
    """
    # `base` is the base model's tokenizers.Tokenizer, `texts` an iterator over documents that can be read once. What is
    # given back is a tokenizers.Tokenizer with every special token of the base and ids without holes; new_bpe, extended
    # and optimized of lep_bench.surgery.vocabulary see to that, and any tokenizer is checked before it is used.
    from lep_bench.surgery import vocabulary as made

    russian = (text for text in texts if any("а" <= letter <= "я" for letter in text.lower()))
    return made.new_bpe(base, made.limited(russian, params.characters), params.size)
'''

TUNING = '''\
"""@NAME@: say here in one line how the model is tuned."""

from lep_bench.plugin import Params, tuning


class Settings(Params):
    """Set in a family's YAML: `tuning: {@NAME@: {after: [conversion], params: {copies: 100}}}`. Every field needs a default."""

    # A run lets the original instruct model write `answers` answers of at most `answer_tokens` tokens beforehand.
    answers: int = 32
    answer_tokens: int = 64
    copies: int = 32
    learning_rate: float = 1e-4


@tuning("@NAME@")
def @FUNCTION@(model, params: Settings):
    """A short tuning of all layers on the instruct model's own answers and on copying.

    Source: cite the paper or page the method comes from. This example is after arXiv 2412.21140, section 3.5.
    """
    # `model` gives examples (prompt, answer) and tunes: answers(n, max_tokens) are the ORIGINAL instruct model's, copies(n)
    # ask to repeat a text, examples(file) reads a JSONL of yours. Recipe holds every setting of the tuning.
    from lep_bench.training.finetune import Recipe

    examples = model.answers(params.answers, params.answer_tokens) + model.copies(params.copies)
    recipe = Recipe(layers="all", learning_rate=params.learning_rate, batch=16)
    return model.finetune(examples, recipe)
'''

TEST = '''\
"""@NAME@ keeps its contract on small models of every kind (pytest runs this)."""

from pathlib import Path

from lep_bench.testing import check_adapter


def test_@FUNCTION@() -> None:
    check_adapter(Path(__file__).with_name("@FILE@"))
'''

DONOR_FAMILY = """\
# A family: base, instruct, and the vocabularies that a donor exists for. Run it with the suite of the same name.
description: @DESCRIPTION@
base: @BASE@
instruct: @INSTRUCT@
# bytes-exact cuts new tokens into old ones exactly as bytes; paper does it as the paper's authors did.
row_policy: bytes-exact
vocabularies:
@VOCABULARIES@
propagation:
  swap: {}
  overlap: {}
  conversion: {}
"""

TRAINED_FAMILY = """\
# A family: base, instruct, and the vocabularies that are made and trained here. Run it with the suite of the same name.
description: @DESCRIPTION@
base: @BASE@
instruct: @INSTRUCT@
# Text (one document a line) or JSONL files with a "text" field, a name or a list of names: for tokenizers and training.
corpus: @CORPUS@
row_policy: bytes-exact
vocabularies:
  original: {} # the control: the same text, the old vocabulary
  bpe: {}
  extended: {}
# Embeddings and head only, the body stays frozen. `characters` of the corpus are read once, by every vocabulary alike.
pretraining: {characters: 100000000, block: 1024, batch: 256, learning_rate: 2.0e-4}
propagation:
  swap: {}
  overlap: {}
  conversion: {}
"""

SUITE = """\
# What `lep-bench run --suite @NAME@` means: these families, tasks and scoring rules.
title: @NAME@
families: [@NAME@]
@REST@"""


TASK = """\
# A plain lm-eval task: `lm_eval run --include_path DIR --tasks @NAME@` runs it too.
task: @NAME@
custom_dataset: !function utils.load_rows
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - metric: acc
metadata:
  # Raise it whenever a score may change.
  version: 1.0
  # The metric that a table shows.
  primary: acc
"""

TASK_UTILS = '''\
"""The rows of this task. lm-eval loads this file by path; it imports nothing of lep-bench."""

import json
from pathlib import Path

import datasets


def load_rows(**_):
    """One row a line in rows.jsonl: question, choices, gold (the right choice's number), group (for standard errors)."""
    lines = (Path(__file__).parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
'''

TASK_ROWS = """\
{"question": "Which of these is a colour?", "choices": ["green", "seven", "river"], "gold": 0, "group": "colours"}
{"question": "Which of these is a number?", "choices": ["green", "seven", "river"], "gold": 1, "group": "numbers"}
"""


def fill(template: str, **values: str) -> str:
    """`template` with every @KEY@ replaced by `values[key]`."""
    for key, value in values.items():
        template = template.replace(f"@{key.upper()}@", value)
    return template
