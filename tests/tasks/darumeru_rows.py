"""Rows in the forms of Darumeru's data sets, made up for the tests; `real` adds the sample of real
rows where it is present.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "darumeru-sample"
# those of the sample
CONFIGS = ("rummlu", "multiq", "parus", "rcb", "rwsd", "use", "ruopenbookqa", "ruworldtree")

OPTIONS = (
    "{question}\nA) {option_a}\nB) {option_b}\nC) {option_c}\nD) {option_d}\nЗапишите только "
    "букву верного варианта: A, B, C или D."
)
TEMPLATES = {
    "rummlu": (
        "Задание по теме {subject}:\n{text}\nA {option_a}\nB {option_b}\nC {option_c}\nD "
        "{option_d}\nЗапишите букву ответа."
    ),
    "multiq": "Текст 1: {support_text}\nТекст 2: {text}\nОтветьте на вопрос: {question}",
    "parus": (
        'Ситуация: "{premise}" 1. {choice1} 2. {choice2} Что является следствием? Выведи одну '
        "цифру."
    ),
    "rcb": (
        'Ситуация: "{premise}" Гипотеза: "{hypothesis}". 1 - следует, 2 - противоречит, 3 - '
        "независима."
    ),
    "rwsd": 'Текст: "{text}"\nОтносится ли "{span2_text}" к "{span1_text}"? Напиши: Да или Нет',
    "use": "Текст: {text}\nЗадание: {task}\nВарианты ответа:\n{choices}\n{additional_text}",
    "ruopenbookqa": OPTIONS,
    "ruworldtree": OPTIONS,
    "copy": "Повтори следующий текст слово в слово.\nТекст: {text}",
}


def real(task: str) -> list[Row]:
    """The real test rows of `task` (without "darumeru_"); none where the sample is not present."""
    file = SAMPLE / task / "test.jsonl"
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
        if file.is_file()
        else []
    )


def rows(task: str) -> list[Row]:
    """Made-up rows of `task` (without "darumeru_")."""
    if task in ("mmlu_ru", "mmlu_en"):
        return mmlu()
    return {
        **_MAKERS,
        **{
            f"copy_{u}_{x}": lambda u=u, x=x: copies(u, x)
            for u in ("sent", "para")
            for x in ("ru", "en")
        },
    }[task]()


def row(task: str, inputs: dict[str, Any], outputs: Any, /, **meta: Any) -> Row:
    """A row of RefalMachine/darumeru: a template, its slots, the answer."""
    messages = [{"role": "user", "content": TEMPLATES[task]}, {"role": "bot", "content": "Ответ:"}]
    return {"messages": messages, "inputs": inputs, "outputs": outputs, "meta": meta}


def again(picked: Row, number: int) -> Row:
    """The row with an id of its own, so that it can stand in a list twice."""
    return (
        {**picked, "meta": {**picked["meta"], "id": number}} if "meta" in picked else dict(picked)
    )


def lettered(task: str, name: str) -> list[Row]:
    questions = [
        (
            "Что служит источником энергии для растений?",
            "лунный свет",
            "солнечный свет",
            "звук",
            "ветер",
            "B",
        ),
        (
            "Какой предмет притянет магнит?",
            "железный гвоздь",
            "стеклянный шарик",
            "сосновая доска",
            "лист бумаги",
            "A",
        ),
        (
            "Что произойдёт с водой при минус десяти градусах?",
            "она закипит",
            "она испарится",
            "она замёрзнет",
            "ничего",
            "C",
        ),
        ("Кто из животных впадает в зимнюю спячку?", "заяц", "волк", "лось", "медведь", "D"),
        ("Какой орган качает кровь?", "сердце", "печень", "лёгкие", "почки", "A"),
        ("Сколько сторон у шестиугольника?", "четыре", "пять", "шесть", "восемь", "C"),
    ]
    made = []
    for n, (question, a, b, c, d, gold) in enumerate(questions):
        inputs = {name: question, "option_a": a, "option_b": b, "option_c": c, "option_d": d}
        extra = {"subject": "Биология"} if task == "rummlu" else {}
        meta = {"domain": "high_school_biology"} if task == "rummlu" else {}
        made.append(row(task, inputs | extra, gold, **meta, id=n))
    return made


def multiq() -> list[Row]:
    texts = [
        (
            "В какое море впадает река, на которой стоит Саратов?",
            ["Каспийское море", "Каспийского моря", "в Каспийское"],
        ),
        ("Кто возглавляет город, где родился художник?", ["И. Р. Метшин"]),
        ("Какую группу слушал герой?", ["The Beatles", "Битлз"]),
        ("Где прошёл съезд?", ["«Дом учёных» (Новосибирск)", "Дом учёных"]),
        ("В каком году основан университет?", ["1755", "в 1755 году"]),
        ("Как называлась газета?", ["Санкт-Петербургские ведомости"]),
    ]
    made = []
    for n, (question, segments) in enumerate(texts):
        answers = [
            {"label": "passage", "length": len(s), "offset": 8, "segment": s} for s in segments
        ]
        inputs = {
            "question": question,
            "support_text": "Саратов стоит на Волге.",
            "text": f"Известно: {segments[0]}. Прочее не сказано.",
        }
        made.append(row("multiq", inputs, answers, id=n, bridge_answers=[]))
    return made


def parus() -> list[Row]:
    cases = [
        ("Мужчина открыл кран.", "Потекла вода.", "Погас свет.", "1", "effect"),
        ("Улица была мокрой.", "Светило солнце.", "Прошёл дождь.", "2", "cause"),
        ("Ребёнок уронил стакан.", "Стакан разбился.", "Стакан наполнился.", "1", "effect"),
        ("Поезд опоздал.", "На путях лежал снег.", "Пассажиры спали.", "1", "cause"),
        ("Она забыла зонт.", "Она выспалась.", "Она промокла.", "2", "effect"),
    ]
    return [
        row("parus", {"premise": p, "choice1": a, "choice2": b}, gold, task=kind, id=n)
        for n, (p, a, b, gold, kind) in enumerate(cases)
    ]


def rcb() -> list[Row]:
    cases = [
        ("Он знал, что поезд уже ушёл.", "Поезд ушёл.", "1"),
        ("Неправда, что магазин закрыт.", "Магазин закрыт.", "2"),
        ("Она думает, что завтра будет дождь.", "Завтра будет дождь.", "3"),
        ("Мы забыли, что дверь открыта.", "Дверь открыта.", "1"),
        ("Я не верю, что он приедет.", "Он приедет.", "3"),
        ("Никто не отрицает победу.", "Победы не было.", "2"),
    ]
    meta = {"verb": "знать", "negation": "no_negation", "genre": "kp"}
    return [
        row("rcb", {"premise": p, "hypothesis": h}, gold, **meta, id=n)
        for n, (p, h, gold) in enumerate(cases)
    ]


def rwsd() -> list[Row]:
    cases = [
        ("Кубок не поместился в чемодан, потому что он слишком велик.", "Кубок", "он", "Да"),
        ("Кубок не поместился в чемодан, потому что он слишком велик.", "чемодан", "он", "Нет"),
        ("Анна спросила Марию, потому что она знала ответ.", "Марию", "она", "Да"),
        ("Анна спросила Марию, потому что она знала ответ.", "Анна", "она", "Нет"),
        ("Рыба съела червяка, он был вкусный.", "Рыба", "он", "Нет"),
    ]
    return [
        row(
            "rwsd",
            {"text": t, "span1_index": 0, "span1_text": one, "span2_index": 7, "span2_text": two},
            gold,
            id=n,
        )
        for n, (t, one, two, gold) in enumerate(cases)
    ]


USE_KINDS = [
    *(
        ("multiple_choice_based_on_text", str(n), gold)
        for n, gold in enumerate(("1,5", "3,4", "2", "1,2,4", "2,3"), 1)
    ),
    ("text", "6", "свободная,вольная"),
    ("text", "7", "двести"),
    ("matching", "8", "7,2,5,1,9"),
    *(
        ("multiple_choice_independent_options", str(n), gold)
        for n, gold in enumerate(("1,3", "5", "2,4,5", "4", "1,2", "3", "1,4"), 9)
    ),
    ("multiple_choice_independent_options", "16", "2,5"),
    *(
        ("multiple_choice_options_within_text", str(n), gold)
        for n, gold in enumerate(("1,2,3,4", "2", "1,3", "4,5", "3"), 17)
    ),
    ("multiple_choice_based_on_text", "22", "1,4"),
    ("text", "23", "какбудто"),
    ("text", "24", "бок_о_бок"),
    ("multiple_choice_based_on_text", "25", "7"),
    ("matching", "26", "8,1,6,3"),
]


def use() -> list[Row]:
    """Two whole variants: 26 questions, 34 points each (a real variant has other questions, the sum
    is what counts).
    """
    made = []
    for variant in (0, 17):
        for kind, number, gold in USE_KINDS:
            inputs = {
                "task": "Укажите номера.",
                "text": "(1) Шёл снег. (2) Дул ветер.",
                "choices": "1. да\n2. нет",
                "additional_text": "",
            }
            made.append(
                row(
                    "use",
                    inputs,
                    gold,
                    id=len(made),
                    variant=variant,
                    id_task=number,
                    type=kind,
                    score=1,
                )
            )
    return made


def mmlu() -> list[Row]:
    """Rows of several subjects of all four categories, subjects of different sizes. `subject` is
    the configuration they are of.
    """
    names = (
        "anatomy",
        "astronomy",
        "econometrics",
        "formal_logic",
        "machine_learning",
        "philosophy",
        "sociology",
        "virology",
    )
    made = []
    for subject, size in zip(names, (4, 3, 1, 5, 2, 1, 3, 2)):
        for n in range(size):
            made.append(
                {
                    "question_en": f"Which number comes after {n}?",
                    "choices_en": [str(n + 1), str(n + 2), "none", "all"],
                    "question_ru": f"Какое число следует за {n}?",
                    "choices_ru": [str(n + 1), str(n + 2), "никакое", "все"],
                    "answer": (len(made) * 3 + n) % 4,
                    "subject": subject,
                }
            )
    return made


def rucola() -> list[Row]:
    cases = [
        ("Вдруг решила сжечь в своем кабинете все бумаги.", 1, "0", "Paraphrase_Corpus"),
        ("Мы пошли в лес за грибами и вернулись к обеду.", 1, "0", "Rusgram"),
        ("Мне нравится читать книга вечером.", 0, "Morphology", "Tatoeba"),
        ("Он был пришёл домой поздно.", 0, "Syntax", "Lutikova"),
        ("Зелёные мысли громко спят на потолке.", 0, "Semantics", "WikiMatrix"),
        ("Сестра попросила брата не шуметь.", 1, "0", "Mitrenina"),
    ]
    return [
        {"id": n, "sentence": s, "label": x, "error_type": e, "detailed_source": d}
        for n, (s, x, e, d) in enumerate(cases)
    ]


def treeway() -> list[Row]:
    first = [
        "Учёные Томского университета нашли новый вид пауков.",
        "Работа заняла три года.",
        "Пауки живут в пещерах Алтая, где почти нет света.",
        "Журналисты спросили, опасны ли они.",
        "«Для людей они безвредны», — сказал руководитель группы.",
        "Летом экспедиция продолжится.",
    ]
    second = [
        "Банк России сохранил ставку.",
        "Рынок этого ждал.",
        "Рубль укрепился к доллару на 0,5%.",
        "Акции не изменились в цене.",
    ]
    third = ["Команда выиграла кубок.", "Тренер доволен игрой."]
    made = [
        (
            first,
            ["Найден новый вид пауков, живущих в пещерах Алтая.", "Для людей они безвредны."],
            [0, 2, 4],
        ),
        (second, ["Центробанк оставил ставку прежней; рубль укрепился."], [2]),
        (third, ["Кубок выигран."], [1, 0]),
        (first[::-1], ["Томские учёные описали пауков из пещер."], [5, 3]),
    ]
    return [{"src_sents": s, "summary_sents": t, "extractive_summary": e} for s, t, e in made]


RU = [
    "Рыжая лиса бежит по зелёному холму, а маленькая собака спит у реки.",
    (
        "В 1891 году началось строительство Транссибирской магистрали — самой длинной железной "
        "дороги мира."
    ),
    "«Не всё то золото, что блестит», — говорила бабушка, перебирая старые письма.",
    "Температура воздуха опустилась до -25 °C, но школьники всё равно вышли на лыжах.",
    "На рынке продавали мёд, орехи, сушёные грибы и свежий хлеб из ржаной муки.",
]
EN = [
    "The red fox runs over the green hill and the small dog sleeps near the river.",
    "In 1891 the construction of the longest railway in the world was begun at both of its ends.",
    '"All that glitters is not gold," said the grandmother, sorting through old letters.',
    "The temperature fell to -25 °C, but the pupils went skiing all the same.",
    "Honey, nuts, dried mushrooms and fresh rye bread were sold at the market.",
]


def copies(unit: str, language: str) -> list[Row]:
    """Texts to copy; the last is longer than the limit of new tokens (128 or 1024) under every
    tokenizer of the tests.
    """
    sentences = RU if language == "ru" else EN
    if unit == "sent":
        texts = [*sentences, ", ".join(s.rstrip(".") for s in sentences) + "."]
    else:
        texts = [
            " ".join(sentences[:3]),
            "\n".join(sentences[1:]),
            " ".join(f"{n}. {sentences[n % 5]}" for n in range(1, 31)),
        ]
    return [row("copy", {"text": text}, text, id=n) for n, text in enumerate(texts)]


_MAKERS = {
    "rummlu": lambda: lettered("rummlu", "text"),
    "ruopenbookqa": lambda: lettered("ruopenbookqa", "question"),
    "ruworldtree": lambda: lettered("ruworldtree", "question"),
    "multiq": multiq,
    "parus": parus,
    "rcb": rcb,
    "rwsd": rwsd,
    "use": use,
    "rucola": rucola,
    "sum_abstractive": treeway,
    "sum_extractive": treeway,
}
