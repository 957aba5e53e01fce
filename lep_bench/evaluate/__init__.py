"""Tasks compiled once per tokenizer, then scored model by model: the one place that knows lm-eval's API.

`compile_tasks` lets lm-eval build its requests and turns them into token ids; `score` has an engine answer them and
lm-eval's own filters, metrics and aggregations read the answers. `EngineLM` offers an engine to `lm_eval.evaluate`.
"""

from lep_bench.evaluate.compiling import CompiledTask, Item, compile_task, compile_tasks, positions_of, tokenizer_digest
from lep_bench.evaluate.encoding import Encoder
from lep_bench.evaluate.enginelm import EngineLM
from lep_bench.evaluate.noise import measure as noise_floor
from lep_bench.evaluate.scoring import Scored, score

__all__ = [
    "CompiledTask", "EngineLM", "Encoder", "Item", "Scored", "compile_task", "compile_tasks", "noise_floor", "positions_of", "score",
    "tokenizer_digest",
]  # fmt: skip
