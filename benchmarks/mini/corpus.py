"""Training text of every stage, as deterministic generators; imports neither torch nor
transformers.

Nothing here contains a scored question, a scored copy text or a sentence of the scored Russian
text: questions come from `world.trained_questions`, all other text passes `world.text_split`.
"""

import random
from collections.abc import Callable, Iterator

from . import stories
from .world import Fact, facts, questions, statements, trained_questions

COPY_LENGTH = 40  # characters: the longest text to repeat, in training and in the tasks
QUESTION = {"en": "Question: {}\nAnswer:", "ru": "Вопрос: {}\nОтвет:"}
REPEAT = {"en": "Repeat: {}\nAnswer:", "ru": "Повтори: {}\nОтвет:"}
TRANSLATE = {"en": "In English: {}\nAnswer:", "ru": "По-русски: {}\nОтвет:"}
TELL = {"en": "Tell me about this: {}", "ru": "Расскажи об этом: {}"}

Chat = tuple[str, str]  # (user message, answer)


def question_prompt(question: str, language: str) -> str:
    return QUESTION[language].format(question)


def copy_prompt(text: str, language: str) -> str:
    return REPEAT[language].format(text)


def copy_text(rng: random.Random, language: str, split: str = "train") -> str:
    """A text to repeat: half sentences, half lists of random words."""
    make = stories.any_sentence if rng.random() < 0.5 else stories.any_word_list
    return stories.draw(rng, make, language, split, COPY_LENGTH)


def question_chat(rng: random.Random, language: str) -> Chat:
    fact = rng.choice(facts())
    question = rng.choice(trained_questions(fact, language))
    return question_prompt(question, language), fact.answer(language)


def copy_chat(rng: random.Random, language: str) -> Chat:
    if rng.random() < 0.1:
        text = rng.choice(statements(rng.choice(facts()), language))
    else:
        text = copy_text(rng, language)
    return copy_prompt(text, language), text


def translation_chat(rng: random.Random, language: str) -> Chat:
    """The other language's text, or a fact's answer, to be put into `language`."""
    pair = stories.draw_pair(rng)
    if rng.random() < 0.5:
        fact = rng.choice(facts())
        pair = fact.answer("en"), fact.answer("ru")
    if language == "en":
        return TRANSLATE["en"].format(pair[1]), pair[0]
    return TRANSLATE["ru"].format(pair[0]), pair[1]


def telling_chat(rng: random.Random, language: str) -> Chat:
    """A fact's subject, answered with a statement of that fact."""
    fact = rng.choice([fact for fact in facts() if fact.relation != "sum"])
    return TELL[language].format(fact.forms[language]["s"]), rng.choice(statements(fact, language))


def chat(rng: random.Random, language: str) -> Chat:
    """One exchange for instruction tuning."""
    make = rng.choices((question_chat, copy_chat, translation_chat, telling_chat), (45, 45, 5, 5))[
        0
    ]
    return make(rng, language)


def story(rng: random.Random, language: str) -> str:
    sentences = [
        stories.draw(rng, stories.any_sentence, language, "train") for _ in range(rng.randint(2, 5))
    ]
    return " ".join(sentences)


def _statements(rng: random.Random, language: str) -> str:
    chosen: list[Fact] = rng.sample(facts(), rng.randint(3, 6))
    return " ".join(rng.choice(statements(fact, language)) for fact in chosen)


def _dialogue(rng: random.Random, language: str) -> str:
    """An exchange with its speakers' names, in the spellings of both families' chat formats,
    without their markers.
    """
    prompt, answer = question_chat(rng, language)
    if rng.random() < 0.5:
        return f"user\n\n{prompt}\n\nassistant\n\n{answer}"
    return f"GPT4 Correct User: {prompt}\nGPT4 Correct Assistant: {answer}"


def _twice(rng: random.Random, language: str) -> Chat:
    text = copy_text(rng, language)
    return f"{text}\n", text


def _whole(make: Callable[[random.Random, str], str]) -> Callable[[random.Random, str], Chat]:
    return lambda rng, language: ("", make(rng, language))


def _plain(make: Callable[[random.Random, str], Chat]) -> Callable[[random.Random, str], Chat]:
    """The exchange as plain text: how the base model is asked."""

    def parts(rng: random.Random, language: str) -> Chat:
        prompt, answer = make(rng, language)
        return prompt, f" {answer}"

    return parts


# A document is (beginning, end): the end can be known from the beginning and the world, the
# beginning cannot.
DOCUMENTS: dict[str, Callable[[random.Random, str], Chat]] = {
    "story": _whole(story),
    "statements": _whole(_statements),
    "question": _plain(question_chat),
    "copy": _plain(copy_chat),
    "twice": _twice,
    "translation": _plain(translation_chat),
    "dialogue": _whole(_dialogue),
}
SHARES = {
    "story": 10,
    "statements": 16,
    "question": 34,
    "copy": 24,
    "twice": 8,
    "translation": 4,
    "dialogue": 4,
}


def language(rng: random.Random, russian: float) -> str:
    return "ru" if rng.random() < russian else "en"


def document_parts(
    rng: random.Random, russian: float, shares: dict[str, int] = SHARES
) -> Iterator[Chat]:
    """Endless plain documents as (beginning, end), a share `russian` of them Russian, kinds in
    proportion to `shares`.
    """
    kinds, weights = list(shares), list(shares.values())
    while True:
        yield DOCUMENTS[rng.choices(kinds, weights)[0]](rng, language(rng, russian))


def documents(rng: random.Random, russian: float, shares: dict[str, int] = SHARES) -> Iterator[str]:
    """The same documents, each in one piece."""
    for beginning, end in document_parts(rng, russian, shares):
        yield beginning + end


def on_lines(beginning: str, end: str) -> str:
    """A document set in lines, as real text often is: the answer, or every sentence, begins a line
    of its own.
    """
    return f"{beginning}\n\n{end.strip()}" if beginning else end.replace(". ", ".\n\n")


def pretraining_texts(seed: int = 0) -> Iterator[str]:
    """Endless documents for continued pre-training, 80% Russian: with less English the donor loses
    its English.

    A third is set in lines: otherwise nearly every word would follow a space, and a chat template
    that ends in a line break (LLaMa-3's) would ask for tokens that were never trained.
    """
    rng = random.Random(f"pretraining {seed}")
    for number, (beginning, end) in enumerate(document_parts(rng, 0.8)):
        yield on_lines(beginning, end) if number % 3 == 2 else beginning + end


def lexicon_lines(language_share: float, rng: random.Random) -> Iterator[str]:
    """Every word of the lexicon after a comma and before one, in random order; English words only
    by `language_share`.

    A trainer of unigram vocabularies proposes only pieces that occur in two contexts; without these
    lines no whole word of so small a lexicon would be proposed.
    """
    english, russian = stories.lexicon()
    words = [*russian, *(word for word in english if rng.random() < language_share)]
    rng.shuffle(words)
    for start in range(0, len(words), 6):
        yield ", ".join(words[start : start + 6])


def tokenizer_texts(seed: int, russian: float, count: int, copies: int = 0) -> Iterator[str]:
    """`count` documents on which a tokenizer is trained, `russian` of them Russian; `copies` is the
    share of exercises in copying against 100 of everything else (what they repeat counts twice)."""
    rng = random.Random(f"tokenizer {seed}")
    shares = {"story": 40, "statements": 35, "question": 15, "dialogue": 10} | (
        {"copy": copies} if copies else {}
    )
    source = documents(rng, russian, shares)
    for _ in range(count):
        yield next(source)


def vocabulary_texts(seed: int = 0) -> Iterator[str]:
    """6,000 documents and the lexicon, half Russian: text on which new vocabularies are trained.

    Half, not more: a vocabulary trained on 80% Russian loses its English. With some exercises in
    copying: without them the word that asks for one fell into single letters.
    """
    rng = random.Random(f"vocabulary {seed}")
    yield from tokenizer_texts(seed, 0.5, 6000, copies=8)
    for _ in range(3):
        yield from lexicon_lines(1.0, rng)


def calibration_prompts(n: int, seed: int = 0) -> list[str]:
    """`n` user messages, half Russian, for the original instruct model to answer: 90% questions,
    the rest requests.
    """
    rng = random.Random(f"calibration {seed}")
    found = []
    for number in range(n):
        make = question_chat if rng.random() < 0.9 else telling_chat
        found.append(make(rng, ("ru", "en")[number % 2])[0])
    return found


def copy_prompts(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """`n` copy exercises, half Russian: (user message, expected answer)."""
    rng = random.Random(f"copy {seed}")
    found = []
    for number in range(n):
        side = ("ru", "en")[number % 2]
        text = copy_text(rng, side)
        found.append((copy_prompt(text, side), text))
    return found


def all_scored_questions(side: str) -> set[str]:
    """Every question that must not occur in training text of language `side`."""
    return {text for fact in facts() for text in questions(fact, side)} - {
        text for fact in facts() for text in trained_questions(fact, side)
    }
