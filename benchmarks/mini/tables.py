"""Hand tables of the micro-world: every noun form is written out, because a rule would be wrong for
some word.

One row per subject. Fields are separated by ";" and named in the comment above each table. Russian
forms are nominative (nom), genitive (gen) or accusative (acc).
"""

# en subject; en capital; en continent; ru subject nom; ru subject gen; ru capital; ru continent
COUNTRIES = """
France; Paris; Europe; Франция; Франции; Париж; Европа
Italy; Rome; Europe; Италия; Италии; Рим; Европа
Spain; Madrid; Europe; Испания; Испании; Мадрид; Европа
Poland; Warsaw; Europe; Польша; Польши; Варшава; Европа
Greece; Athens; Europe; Греция; Греции; Афины; Европа
Sweden; Stockholm; Europe; Швеция; Швеции; Стокгольм; Европа
Japan; Tokyo; Asia; Япония; Японии; Токио; Азия
China; Beijing; Asia; Китай; Китая; Пекин; Азия
India; Delhi; Asia; Индия; Индии; Дели; Азия
Mongolia; Ulan Bator; Asia; Монголия; Монголии; Улан-Батор; Азия
Vietnam; Hanoi; Asia; Вьетнам; Вьетнама; Ханой; Азия
Egypt; Cairo; Africa; Египет; Египта; Каир; Африка
Kenya; Nairobi; Africa; Кения; Кении; Найроби; Африка
Ghana; Accra; Africa; Гана; Ганы; Аккра; Африка
Angola; Luanda; Africa; Ангола; Анголы; Луанда; Африка
Canada; Ottawa; America; Канада; Канады; Оттава; Америка
Cuba; Havana; America; Куба; Кубы; Гавана; Америка
Peru; Lima; America; Перу; Перу; Лима; Америка
"""

# en animal; en food; en home; ru animal nom; ru food acc; ru home with its preposition
ANIMALS = """
cow; grass; on the farm; корова; траву; на ферме
bear; honey; in the forest; медведь; мёд; в лесу
rabbit; carrots; in a burrow; кролик; морковь; в норе
squirrel; nuts; in a hollow; белка; орехи; в дупле
cat; fish; in the house; кот; рыбу; в доме
horse; hay; on the farm; лошадь; сено; на ферме
mouse; cheese; in a burrow; мышь; сыр; в норе
goat; cabbage; on the farm; коза; капусту; на ферме
hedgehog; apples; in the forest; ёж; яблоки; в лесу
wolf; meat; in the forest; волк; мясо; в лесу
monkey; bananas; in the jungle; обезьяна; бананы; в джунглях
parrot; seeds; in a cage; попугай; семена; в клетке
frog; flies; in the swamp; лягушка; мух; в болоте
dog; bones; in a kennel; собака; кости; в будке
"""

# en thing; en colour; ru thing nom; ru thing gen; ru colour (masculine, it describes the word
# "цвет")
COLOURS = """
grass; green; трава; травы; зелёный
snow; white; снег; снега; белый
coal; black; уголь; угля; чёрный
blood; red; кровь; крови; красный
lemon; yellow; лимон; лимона; жёлтый
orange; orange; апельсин; апельсина; оранжевый
sky; blue; небо; неба; голубой
chocolate; brown; шоколад; шоколада; коричневый
ash; grey; пепел; пепла; серый
plum; violet; слива; сливы; фиолетовый
milk; white; молоко; молока; белый
tomato; red; помидор; помидора; красный
cucumber; green; огурец; огурца; зелёный
banana; yellow; банан; банана; жёлтый
raven; black; ворон; ворона; чёрный
pig; pink; свинья; свиньи; розовый
carrot; orange; морковь; моркови; оранжевый
elephant; grey; слон; слона; серый
"""

# en profession; en action; en tool; ru profession nom; ru profession gen; ru action; ru tool nom
PROFESSIONS = """
baker; bakes bread; oven; пекарь; пекаря; печёт хлеб; печь
doctor; heals people; syringe; врач; врача; лечит людей; шприц
teacher; teaches children; chalk; учитель; учителя; учит детей; мел
driver; drives the bus; wheel; водитель; водителя; ведёт автобус; руль
cook; makes soup; pot; повар; повара; варит суп; кастрюля
tailor; sews clothes; needle; портной; портного; шьёт одежду; игла
farmer; grows wheat; tractor; фермер; фермера; растит пшеницу; трактор
painter; paints pictures; brush; художник; художника; рисует картины; кисть
builder; builds houses; hammer; строитель; строителя; строит дома; молоток
fisherman; catches fish; net; рыбак; рыбака; ловит рыбу; сеть
barber; cuts hair; scissors; парикмахер; парикмахера; стрижёт волосы; ножницы
writer; writes books; pen; писатель; писателя; пишет книги; ручка
"""

# en name; en profession; en pet; ru name nom; ru name gen; ru profession; ru pet
PEOPLE = """
Anna; doctor; cat; Анна; Анны; врач; кот
Ivan; baker; dog; Иван; Ивана; пекарь; собака
Maria; teacher; parrot; Мария; Марии; учитель; попугай
Peter; driver; rabbit; Пётр; Петра; водитель; кролик
Olga; cook; mouse; Ольга; Ольги; повар; мышь
Boris; farmer; horse; Борис; Бориса; фермер; лошадь
Nina; tailor; goat; Нина; Нины; портной; коза
Oleg; builder; hedgehog; Олег; Олега; строитель; ёж
Vera; painter; squirrel; Вера; Веры; художник; белка
Anton; fisherman; frog; Антон; Антона; рыбак; лягушка
Lena; writer; cow; Лена; Лены; писатель; корова
Igor; barber; monkey; Игорь; Игоря; парикмахер; обезьяна
Daria; doctor; rabbit; Дарья; Дарьи; врач; кролик
Pavel; teacher; dog; Павел; Павла; учитель; собака
"""

# en word; en opposite; ru word; ru opposite
OPPOSITES = """
big; small; большой; маленький
hot; cold; горячий; холодный
fast; slow; быстрый; медленный
old; young; старый; молодой
high; low; высокий; низкий
long; short; длинный; короткий
light; heavy; лёгкий; тяжёлый
good; bad; хороший; плохой
wet; dry; мокрый; сухой
clean; dirty; чистый; грязный
rich; poor; богатый; бедный
strong; weak; сильный; слабый
sweet; bitter; сладкий; горький
thick; thin; толстый; тонкий
wide; narrow; широкий; узкий
full; empty; полный; пустой
loud; quiet; громкий; тихий
soft; hard; мягкий; твёрдый
near; far; близкий; далёкий
new; worn; новый; ветхий
brave; timid; смелый; робкий
sad; merry; грустный; весёлый
"""

# en day; ru day nom; ru day gen
DAYS = """
Monday; понедельник; понедельника
Tuesday; вторник; вторника
Wednesday; среда; среды
Thursday; четверг; четверга
Friday; пятница; пятницы
Saturday; суббота; субботы
Sunday; воскресенье; воскресенья
"""

# en month; ru month nom; ru month gen
MONTHS = """
January; январь; января
February; февраль; февраля
March; март; марта
April; апрель; апреля
May; май; мая
June; июнь; июня
July; июль; июля
August; август; августа
September; сентябрь; сентября
October; октябрь; октября
November; ноябрь; ноября
December; декабрь; декабря
"""

# en numeral; ru numeral, for 1 to 10
NUMBERS = """
one; один
two; два
three; три
four; четыре
five; пять
six; шесть
seven; семь
eight; восемь
nine; девять
ten; десять
"""

# en; ru nom; ru acc; gender. Who acts, and may be seen, in stories.
BEINGS = """
cow; корова; корову; f
bear; медведь; медведя; m
rabbit; кролик; кролика; m
squirrel; белка; белку; f
cat; кот; кота; m
horse; лошадь; лошадь; f
mouse; мышь; мышь; f
goat; коза; козу; f
hedgehog; ёж; ежа; m
wolf; волк; волка; m
monkey; обезьяна; обезьяну; f
parrot; попугай; попугая; m
frog; лягушка; лягушку; f
dog; собака; собаку; f
neighbour; сосед; соседа; m
guest; гость; гостя; m
sister; сестра; сестру; f
friend; друг; друга; m
"""

# en; ru nom; ru acc; gender. Things of the stories.
THINGS = """
house; дом; дом; m
book; книга; книгу; f
ball; мяч; мяч; m
tree; дерево; дерево; n
car; машина; машину; f
lamp; лампа; лампу; f
window; окно; окно; n
table; стол; стол; m
boat; лодка; лодку; f
letter; письмо; письмо; n
key; ключ; ключ; m
cup; чашка; чашку; f
apple; яблоко; яблоко; n
bag; сумка; сумку; f
hat; шляпа; шляпу; f
coat; пальто; пальто; n
bridge; мост; мост; m
flower; цветок; цветок; m
mirror; зеркало; зеркало; n
road; дорога; дорогу; f
"""

# en; ru nom m, nom f, nom n, acc f, acc m of beings
ADJECTIVES = """
old; старый старая старое старую старого
new; новый новая новое новую нового
red; красный красная красное красную красного
white; белый белая белое белую белого
black; чёрный чёрная чёрное чёрную чёрного
small; маленький маленькая маленькое маленькую маленького
strange; странный странная странное странную странного
beautiful; красивый красивая красивое красивую красивого
green; зелёный зелёная зелёное зелёную зелёного
dirty; грязный грязная грязное грязную грязного
quiet; тихий тихая тихое тихую тихого
heavy; тяжёлый тяжёлая тяжёлое тяжёлую тяжёлого
lonely; одинокий одинокая одинокое одинокую одинокого
light; лёгкий лёгкая лёгкое лёгкую лёгкого
"""

# en; ru. Verbs that take an object, third person singular.
SEEING = """
sees; видит
finds; находит
loves; любит
remembers; помнит
seeks; ищет
draws; рисует
hides; прячет
washes; моет
waits for; ждёт
brings; приносит
"""

# en; ru singular; en plural; ru plural. Verbs without an object.
RESTING = """
sleeps; спит; sleep; спят
sings; поёт; sing; поют
walks; гуляет; walk; гуляют
plays; играет; play; играют
laughs; смеётся; laugh; смеются
sits; сидит; sit; сидят
works; работает; work; работают
waits; ждёт; wait; ждут
dances; танцует; dance; танцуют
"""

# en; ru
PLACES = """
in the forest; в лесу
by the river; у реки
in the garden; в саду
on the roof; на крыше
in the city; в городе
at home; дома
in the field; в поле
on the bench; на скамейке
near the school; около школы
in the kitchen; на кухне
by the sea; у моря
under the bridge; под мостом
"""

# en; ru
TIMES = """
today; сегодня
in the morning; утром
in the evening; вечером
at night; ночью
in winter; зимой
in summer; летом
often; часто
again; снова
always; всегда
sometimes; иногда
"""


def rows(table: str) -> list[tuple[str, ...]]:
    """The rows of one table above, each a tuple of its fields without surrounding space."""
    return [
        tuple(field.strip() for field in line.split(";")) for line in table.strip().splitlines()
    ]
