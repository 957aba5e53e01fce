"""my-method: say here in one line how the model is tuned."""

from lep_bench.plugin import Params, tuning


class Settings(Params):
    """Set in a family's YAML: `tuning: {my-method: {after: [conversion], params: {copies: 100}}}`.

    Every field needs a default.
    """

    # Before tuning, a run lets the original instruct model write this many answers, each of at most
    # this many tokens.
    answers: int = 32
    answer_tokens: int = 64
    copies: int = 32
    learning_rate: float = 1e-4


@tuning("my-method")
def my_method(model, params: Settings):
    """A short tuning of all layers on the instruct model's own answers and on copying.

    Source: cite the paper or page that the method comes from. This example follows
    arXiv 2412.21140, section 3.5.
    """
    # `model` provides examples (prompt, answer) and tunes. answers(n, max_tokens) are written by
    # the ORIGINAL instruct model, copies(n) ask to repeat a text, examples(file) reads a JSONL file
    # of yours. Recipe has every setting of the tuning.
    from lep_bench.training.finetune import Recipe

    examples = model.answers(params.answers, params.answer_tokens) + model.copies(params.copies)
    recipe = Recipe(layers="all", learning_rate=params.learning_rate, batch=16)
    return model.finetune(examples, recipe)
