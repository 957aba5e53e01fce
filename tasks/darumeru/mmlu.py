"""What MMLU's questions look like in Russian and in English, and how each subject is called in a headline."""

from typing import Any

from .rows import where

LETTERS = ("A", "B", "C", "D")
HEADLINES = {
    "ru": "Ниже приведены вопросы с множественным выбором (с ответами) по {subject}.\n\n",
    "en": "The following are multiple choice questions (with answers) about {subject}.\n\n",
}
LEADS = {"ru": "Ответ:", "en": "Answer:"}
DATIVE = {
    "abstract_algebra": "абстрактной алгебре",
    "anatomy": "анатомии",
    "astronomy": "астрономии",
    "business_ethics": "деловой этике",
    "clinical_knowledge": "медицинским знаниям",
    "college_biology": "биологии в вузе",
    "college_chemistry": "химии в вузе",
    "college_computer_science": "компьютерным наукам в вузе",
    "college_mathematics": "математике в вузе",
    "college_medicine": "медицине в вузе",
    "college_physics": "физике в вузе",
    "computer_security": "компьютерной безопасности",
    "conceptual_physics": "теоретической физике",
    "econometrics": "эконометрике",
    "electrical_engineering": "электротехнике",
    "elementary_mathematics": "элементарной математике",
    "formal_logic": "формальной логике",
    "global_facts": "фактам о мире",
    "high_school_biology": "биологии в старшей школе",
    "high_school_chemistry": "химии в старшей школе",
    "high_school_computer_science": "информатике в старшей школе",
    "high_school_european_history": "истории Европы в старшей школе",
    "high_school_geography": "географии в старшей школе",
    "high_school_government_and_politics": "государству и политике в старшей школе",
    "high_school_macroeconomics": "макроэкономике в старшей школе",
    "high_school_mathematics": "математике в старшей школе",
    "high_school_microeconomics": "микроэкономике в старшей школе",
    "high_school_physics": "физике в старшей школе",
    "high_school_psychology": "психологии в старшей школе",
    "high_school_statistics": "статистике в старшей школе",
    "high_school_us_history": "истории США в старшей школе",
    "high_school_world_history": "всемирной истории в старшей школе",
    "human_aging": "старению человека",
    "human_sexuality": "человеческой сексуальности",
    "international_law": "международному праву",
    "jurisprudence": "юриспруденции",
    "logical_fallacies": "логическим ошибкам",
    "machine_learning": "машинному обучению",
    "management": "менеджменту",
    "marketing": "маркетингу",
    "medical_genetics": "медицинской генетике",
    "miscellaneous": "разным темам",
    "moral_disputes": "нравственным спорам",
    "moral_scenarios": "нравственным сценариям",
    "nutrition": "правильному питанию",
    "philosophy": "философии",
    "prehistory": "доисторической эпохе",
    "professional_accounting": "профессиональному бухгалтерскому учету",
    "professional_law": "профессиональному праву",
    "professional_medicine": "профессиональной медицине",
    "professional_psychology": "профессиональной психологии",
    "public_relations": "связям с общественностью",
    "security_studies": "исследованиям в области безопасности",
    "sociology": "социологии",
    "us_foreign_policy": "внешней политике США",
    "virology": "вирусологии",
    "world_religions": "мировым религиям",
}


def question(row: dict[str, Any], language: str) -> str:
    """The question and its four options, each on its own line. Raises ValueError for another number of them."""
    choices = row[f"choices_{language}"]
    if len(choices) != len(LETTERS):
        raise ValueError(f"{where(row)}: choices_{language} has {len(choices)} options, not {len(LETTERS)}")
    options = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, choices, strict=True))
    return row[f"question_{language}"] + options


def answer(row: dict[str, Any]) -> str:
    """The right letter; a row says it as a number from 0 or as a letter."""
    named = str(row["answer"]).strip()
    return LETTERS[int(named)] if named in ("0", "1", "2", "3") else named


def headline(subject: str, language: str) -> str:
    """What stands before the first question."""
    return HEADLINES[language].format(subject=DATIVE[subject] if language == "ru" else subject.replace("_", " "))
