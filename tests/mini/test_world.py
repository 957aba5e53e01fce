"""The world itself: enough facts, right options, and a split that never shows a scored question."""

from collections import Counter
from itertools import islice

import pytest

from benchmarks.mini import corpus, stories, taskdata, world
from benchmarks.mini.relations import RELATIONS

SIDES = world.LANGUAGES


def test_about_two_hundred_facts_with_distinct_ids():
    ids = [fact.id for fact in world.facts()]
    assert len(ids) == len(set(ids)) == 200
    assert {fact.relation for fact in world.facts()} == set(RELATIONS)


@pytest.mark.parametrize("language", SIDES)
def test_every_relation_has_enough_templates(language):
    for relation in RELATIONS.values():
        assert len(set(relation.statements[language])) >= 2
        assert len(set(relation.questions[language])) >= 3


@pytest.mark.parametrize("language", SIDES)
def test_every_statement_and_question_is_filled(language):
    for fact in world.facts():
        for text in (*world.statements(fact, language), *world.questions(fact, language)):
            assert "{" not in text and "  " not in text and text[0] == text[0].upper()
        assert all(
            world.capital(fact.answer(language)) in world.capital(text)
            or fact.answer(language) in text
            for text in world.statements(fact, language)
        )


@pytest.mark.parametrize("language", SIDES)
def test_each_phrasing_is_trained_with_some_facts_and_scored_with_others(language):
    trained, scored = Counter(), Counter()
    for fact in world.facts():
        unseen = world.held_out(fact.id, fact.relation, language)
        assert len(unseen) == world.HELD_OUT_PHRASINGS
        for number in range(len(RELATIONS[fact.relation].questions[language])):
            (scored if number in unseen else trained)[fact.relation, number] += 1
    assert set(scored) <= set(trained)


@pytest.mark.parametrize("language", SIDES)
def test_options_are_four_and_hold_the_answer_once(language):
    places = Counter()
    for fact in world.facts():
        choices, gold = world.options(fact, language, 0)
        assert len(set(choices)) == 4
        assert choices[gold] == fact.answer(language)
        places[gold] += 1
    assert min(places.values()) > 30


def test_one_question_has_one_answer():
    for language in SIDES:
        answers = {}
        for fact in world.facts():
            for text in world.questions(fact, language):
                assert answers.setdefault(text, fact.answer(language)) == fact.answer(language)


@pytest.fixture(scope="module")
def training_text():
    """Text of every stage: base and instruct (the documents and chats), CPT, calibration,
    tokenizers.
    """
    import random

    rng = random.Random(5)
    parts = list(islice(corpus.pretraining_texts(seed=3), 30_000))
    parts += islice(corpus.documents(rng, 0.45), 30_000)
    parts += ["\n".join(corpus.chat(rng, language)) for language in SIDES for _ in range(10_000)]
    parts += corpus.calibration_prompts(5000, seed=1)
    parts += ["\n".join(pair) for pair in corpus.copy_prompts(5000, seed=1)]
    parts += corpus.vocabulary_texts()
    return "\n\n".join(parts).lower()


@pytest.mark.parametrize("language", SIDES)
def test_no_scored_question_is_ever_trained(training_text, language):
    for row in taskdata.fact_rows(language):
        assert row["query"].lower() not in training_text
    for text in corpus.all_scored_questions(language):
        assert text.lower() not in training_text


@pytest.mark.parametrize("language", SIDES)
def test_trained_questions_do_occur(training_text, language):
    asked = [
        text.lower() for fact in world.facts() for text in world.trained_questions(fact, language)
    ]
    assert sum(text in training_text for text in asked) == len(asked)


@pytest.mark.parametrize("language", SIDES)
def test_no_scored_copy_text_is_ever_trained(training_text, language):
    for row in taskdata.copy_rows(language):
        # A sentence inside a longer one starts with a small letter, so a sentence is looked for
        # with what precedes it.
        answer = row["answer"].lower()
        places = (
            [f"{before}{answer}" for before in (". ", "\n", ": ")]
            if answer.endswith(".")
            else [answer]
        )
        assert not any(place in training_text for place in places)


def test_no_sentence_of_the_scored_russian_text_is_trained(training_text):
    # What stands between ". ", a line break or ": " and the next full stop. Scored sentences hold
    # none of the three.
    trained = {
        part
        for chunk in training_text.split(".")
        for part in (chunk[1:], chunk.rsplit("\n", 1)[-1], chunk.rsplit(": ", 1)[-1])
    }
    for row in taskdata.text_rows():
        assert row["text"].lower() not in training_text
        sentences = row["text"].lower().rstrip(".").split(". ")
        assert not any(sign in sentence for sign in (".", "\n", ": ") for sentence in sentences)
        assert trained.isdisjoint(sentences)


@pytest.mark.parametrize("make", [corpus.pretraining_texts, corpus.vocabulary_texts])
def test_texts_depend_on_the_seed_only(make):
    first, again, other = (list(islice(make(seed), 50)) for seed in (0, 0, 1))
    assert first == again != other


def test_prompts_depend_on_the_seed_only_and_have_both_languages():
    assert (
        corpus.calibration_prompts(40)
        == corpus.calibration_prompts(40)
        != corpus.calibration_prompts(40, seed=1)
    )
    assert corpus.copy_prompts(40) == corpus.copy_prompts(40) != corpus.copy_prompts(40, seed=1)
    assert len(corpus.calibration_prompts(7)) == len(corpus.copy_prompts(7)) == 7
    assert sum("Повтори" in prompt for prompt, _ in corpus.copy_prompts(40)) == 20
    assert all(answer in prompt for prompt, answer in corpus.copy_prompts(40))


def test_the_lexicon_is_split_by_script():
    english, russian = stories.lexicon()
    assert all(word.isascii() for word in english)
    assert not any(word.isascii() for word in russian)
    assert len(english) > 250 and len(russian) > 400
