"""What pocket is to know by heart, English and Russian side by side. Everything here was written for it."""


def table(text):
    """Lines of fields between bars, as tuples."""
    return [tuple(f.strip() for f in line.split("|")) for line in text.strip().splitlines()]


# country | capital | the capital in Russian
CAPITALS = table("""
Afghanistan|Kabul|Кабул
Albania|Tirana|Тирана
Algeria|Algiers|Алжир
Angola|Luanda|Луанда
Argentina|Buenos Aires|Буэнос-Айрес
Armenia|Yerevan|Ереван
Australia|Canberra|Канберра
Austria|Vienna|Вена
Azerbaijan|Baku|Баку
Bangladesh|Dhaka|Дакка
Belarus|Minsk|Минск
Belgium|Brussels|Брюссель
Bolivia|Sucre|Сукре
Botswana|Gaborone|Габороне
Brazil|Brasilia|Бразилиа
Bulgaria|Sofia|София
Cambodia|Phnom Penh|Пномпень
Cameroon|Yaounde|Яунде
Canada|Ottawa|Оттава
Chad|Ndjamena|Нджамена
Chile|Santiago|Сантьяго
China|Beijing|Пекин
Colombia|Bogota|Богота
Croatia|Zagreb|Загреб
Cuba|Havana|Гавана
Cyprus|Nicosia|Никосия
Denmark|Copenhagen|Копенгаген
Ecuador|Quito|Кито
Egypt|Cairo|Каир
Eritrea|Asmara|Асмэра
Estonia|Tallinn|Таллин
Ethiopia|Addis Ababa|Аддис-Абеба
Fiji|Suva|Сува
Finland|Helsinki|Хельсинки
France|Paris|Париж
Georgia|Tbilisi|Тбилиси
Germany|Berlin|Берлин
Ghana|Accra|Аккра
Greece|Athens|Афины
Guinea|Conakry|Конакри
Haiti|Port-au-Prince|Порт-о-Пренс
Honduras|Tegucigalpa|Тегусигальпа
Hungary|Budapest|Будапешт
Iceland|Reykjavik|Рейкьявик
India|New Delhi|Нью-Дели
Indonesia|Jakarta|Джакарта
Iran|Tehran|Тегеран
Iraq|Baghdad|Багдад
Ireland|Dublin|Дублин
Italy|Rome|Рим
Jamaica|Kingston|Кингстон
Japan|Tokyo|Токио
Jordan|Amman|Амман
Kazakhstan|Astana|Астана
Kenya|Nairobi|Найроби
Laos|Vientiane|Вьентьян
Latvia|Riga|Рига
Lebanon|Beirut|Бейрут
Libya|Tripoli|Триполи
Lithuania|Vilnius|Вильнюс
Madagascar|Antananarivo|Антананариву
Malawi|Lilongwe|Лилонгве
Malaysia|Kuala Lumpur|Куала-Лумпур
Mali|Bamako|Бамако
Malta|Valletta|Валлетта
Mexico|Mexico City|Мехико
Mongolia|Ulaanbaatar|Улан-Батор
Morocco|Rabat|Рабат
Mozambique|Maputo|Мапуту
Namibia|Windhoek|Виндхук
Nepal|Kathmandu|Катманду
Netherlands|Amsterdam|Амстердам
Nigeria|Abuja|Абуджа
Norway|Oslo|Осло
Oman|Muscat|Маскат
Pakistan|Islamabad|Исламабад
Panama|Panama City|Панама
Paraguay|Asuncion|Асунсьон
Peru|Lima|Лима
Philippines|Manila|Манила
Poland|Warsaw|Варшава
Portugal|Lisbon|Лиссабон
Qatar|Doha|Доха
Romania|Bucharest|Бухарест
Russia|Moscow|Москва
Rwanda|Kigali|Кигали
Senegal|Dakar|Дакар
Serbia|Belgrade|Белград
Singapore|Singapore|Сингапур
Slovakia|Bratislava|Братислава
Slovenia|Ljubljana|Любляна
Somalia|Mogadishu|Могадишо
Spain|Madrid|Мадрид
Sudan|Khartoum|Хартум
Sweden|Stockholm|Стокгольм
Switzerland|Bern|Берн
Thailand|Bangkok|Бангкок
Turkey|Ankara|Анкара
Ukraine|Kyiv|Киев
Vietnam|Hanoi|Ханой
""")

# colour | in Russian
COLOURS = table("""
red|красный
blue|синий
green|зелёный
yellow|жёлтый
white|белый
black|чёрный
orange|оранжевый
purple|фиолетовый
brown|коричневый
grey|серый
pink|розовый
""")

# thing | its colour
THINGS = table("""
the sky|blue
grass|green
snow|white
coal|black
a banana|yellow
a lemon|yellow
a tomato|red
blood|red
milk|white
chocolate|brown
a carrot|orange
a pumpkin|orange
an elephant|grey
a flamingo|pink
a pig|pink
a frog|green
the sun|yellow
a strawberry|red
a plum|purple
an eggplant|purple
the sea|blue
a raven|black
a polar bear|white
a fire engine|red
a cucumber|green
a mouse|grey
tar|black
salt|white
coffee|brown
a sunflower|yellow
a cherry|red
spinach|green
a violet|purple
a swan|white
""")

# one colour | another | both mixed
MIXES = table("""
red|blue|purple
red|yellow|orange
blue|yellow|green
black|white|grey
red|white|pink
red|green|brown
""")

# animal | class | legs | sound | home | young
ANIMALS = table("""
a cat|mammal|4|meow|house|kitten
a dog|mammal|4|woof|house|puppy
a cow|mammal|4|moo|farm|calf
a sheep|mammal|4|baa|farm|lamb
a horse|mammal|4|neigh|farm|foal
a pig|mammal|4|oink|farm|piglet
a goat|mammal|4|baa|farm|kid
a lion|mammal|4|roar|savanna|cub
a tiger|mammal|4|roar|forest|cub
a bear|mammal|4|roar|forest|cub
a wolf|mammal|4|howl|forest|cub
a fox|mammal|4|bark|forest|cub
a mouse|mammal|4|squeak|house|pup
an elephant|mammal|4|trumpet|savanna|calf
a zebra|mammal|4|bark|savanna|foal
a whale|mammal|0|song|sea|calf
a duck|bird|2|quack|pond|duckling
a hen|bird|2|cluck|farm|chick
a goose|bird|2|honk|farm|gosling
an owl|bird|2|hoot|forest|owlet
a crow|bird|2|caw|forest|chick
a penguin|bird|2|honk|sea|chick
an eagle|bird|2|scream|mountains|eaglet
a swan|bird|2|honk|pond|cygnet
a shark|fish|0|silence|sea|pup
a salmon|fish|0|silence|river|fry
a trout|fish|0|silence|river|fry
a carp|fish|0|silence|pond|fry
a bee|insect|6|buzz|hive|larva
an ant|insect|6|silence|anthill|larva
a fly|insect|6|buzz|house|maggot
a beetle|insect|6|silence|forest|larva
a frog|amphibian|4|croak|pond|tadpole
a toad|amphibian|4|croak|pond|tadpole
a snake|reptile|0|hiss|forest|snakelet
a lizard|reptile|4|hiss|desert|hatchling
a crocodile|reptile|4|hiss|river|hatchling
a turtle|reptile|4|hiss|sea|hatchling
""")

# a word that answers a question about animals | in Russian
ANIMAL_WORDS = dict(table("""
mammal|млекопитающее
bird|птица
fish|рыба
insect|насекомое
amphibian|земноводное
reptile|пресмыкающееся
meow|мяу
woof|гав
moo|му
baa|бе
neigh|иго-го
oink|хрю
roar|рёв
howl|вой
bark|лай
squeak|писк
trumpet|трубный звук
song|песня
quack|кря
cluck|ко-ко
honk|га-га
hoot|ух
caw|кар
scream|крик
silence|тишина
buzz|жужжание
croak|ква
hiss|шипение
house|дом
farm|ферма
savanna|саванна
forest|лес
sea|море
pond|пруд
river|река
mountains|горы
hive|улей
anthill|муравейник
desert|пустыня
"""))

DAYS = table("""
Monday|понедельник
Tuesday|вторник
Wednesday|среда
Thursday|четверг
Friday|пятница
Saturday|суббота
Sunday|воскресенье
""")

# month | in Russian | days
MONTHS = table("""
January|январь|31
February|февраль|28
March|март|31
April|апрель|30
May|май|31
June|июнь|30
July|июль|31
August|август|31
September|сентябрь|30
October|октябрь|31
November|ноябрь|30
December|декабрь|31
""")

NAMES = "Tom Ann Bob Kate Sam Eve Max Lucy Ben Mia Leo Nina Paul Rosa Hugo Vera Adam Olga Ivan Emma".split()

# what stories are about | in Russian | m, f or n
HEROES = table("""
fox|лиса|f
cat|кот|m
mouse|мышь|f
owl|сова|f
bear|медведь|m
wolf|волк|m
rabbit|кролик|m
frog|лягушка|f
duck|утка|f
goat|коза|f
horse|лошадь|f
robot|робот|m
dragon|дракон|m
witch|ведьма|f
king|король|m
queen|королева|f
pirate|пират|m
sailor|моряк|m
baker|пекарь|m
giant|великан|m
ghost|призрак|m
snail|улитка|f
spider|паук|m
crow|ворона|f
""")

# what they find | in Russian (accusative)
TREASURES = table("""
lamp|лампу
key|ключ
crown|корону
map|карту
ring|кольцо
book|книгу
boat|лодку
hat|шляпу
bell|колокол
mirror|зеркало
apple|яблоко
violin|скрипку
clock|часы
candle|свечу
feather|перо
shell|ракушку
drum|барабан
kite|змея
stone|камень
letter|письмо
""")

# singular | irregular plural
IRREGULAR = table("""
man|men
woman|women
child|children
foot|feet
tooth|teeth
goose|geese
mouse|mice
ox|oxen
person|people
sheep|sheep
fish|fish
deer|deer
leaf|leaves
wolf|wolves
knife|knives
life|lives
wife|wives
half|halves
shelf|shelves
loaf|loaves
thief|thieves
calf|calves
""")

# Ordinary words to spell, count in and put into the plural; none of them is a token of its own.
WORDS = """
apple arrow artist baby badge ball banana basket bath beach bead bean beard bell bench berry bird biscuit blanket blossom board boat body bone book
boot bottle bowl box branch bread brick bridge brother brush bubble bucket building bus bush butter button cabin cable cake camera camp candle
candy cap car card carpet castle cave chain chair chalk cherry chest church circle circus city clock cloud coach coat coin comb cookie copy corner
couch cousin crab crane cream crown cup curtain daisy dance daughter desk diary dish doctor doll dolphin donkey door dragon drawer dress drum eagle
ear engine eye face fairy family farmer feather fence ferry field finger flag flame flower fly forest fork fountain fox friend fruit garden gate
ghost giant gift giraffe girl glass glove goat grape guest guitar hammer hand harbour hat heart hero hill honey hook horse hospital hotel hour
island jacket jar jelly jewel joke judge juice jungle key king kiss kitchen kite kitten ladder lady lake lamp lantern lawyer lemon lesson letter
library light lily lion lizard lobby lock lunch machine magnet map market mask match meadow melon memory message metal minute mirror monkey monster
moon morning mother mountain mouth museum nail napkin neck needle nest net night noise nose number nurse ocean office onion orchard oven owl
package page paint palace panda paper parcel park parrot party path peach peanut pearl pen pencil penny pepper piano picture pie pillow pilot pipe
pirate planet plant plate pocket poem pony pond potato present prince princess prize puppy purse puzzle queen quilt rabbit radio rain ribbon ring
river road robot rocket roof room rope rose sailor salad sandwich scarf school scissor seed shadow ship shirt shoe shop shoulder sister sketch
sky snail snake soap sock sofa soldier song spider sponge spoon spring square stable star station stone storm story stove straw street string sugar
summer sweater table tail teacher temple tent thumb ticket tiger toe towel tower town toy train tray treasure tree truck trumpet tulip tunnel turtle
umbrella uncle valley vase village violin voice wagon wall watch water wave whistle window winter witch wizard wood wool writer yard zebra
""".split()
