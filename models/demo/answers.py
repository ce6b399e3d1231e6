"""True answers to questions about a scene, in one fixed wording for each kind of question."""

from models.demo import phrases
from models.demo.palette import Language
from models.demo.phrases import join, kind, pick, place, quoted
from models.demo.scenes import Item, Scene


def unique(names: list[str]) -> list[str]:
    """The names without repetitions, in order."""
    return list(dict.fromkeys(names))


def absent(shape: str, colour: str, language: Language) -> str:
    """That there is no such thing."""
    if language == "en":
        return f"There is no {kind(shape, colour, 'en')} in the picture."
    return f"图中没有{kind(shape, colour, 'zh')}。"


def colour_of(scene: Scene, shape: str, language: Language) -> str:
    """What colour the objects of a shape have."""
    found = pick(scene, shape)
    if not found:
        return absent(shape, "", language)
    colours = join(
        [phrases.colour(name, language) for name in unique([item.colour for item in found])], language
    )
    if language == "zh":
        return f"{kind(shape, '', 'zh')}是{colours}。"
    if len(found) == 1:
        return f"The {kind(shape, '', 'en')} is {colours}."
    return f"The {kind(shape, '', 'en', plural=True)} are {colours}."


def shape_of(scene: Scene, colour: str, language: Language) -> str:
    """What shape the objects of a colour have."""
    found = pick(scene, "", colour)
    if not found:
        return absent("", colour, language)
    names = [phrases.shape(item.shape, language) for item in found]
    if language == "zh":
        return f"{kind('', colour, 'zh')}是{join(unique(names), 'zh')}。"
    if len(found) == 1:
        return f"The {colour} object is {phrases.article(names[0])}."
    return f"The {colour} objects are {join([phrases.article(name) for name in names], 'en')}."


def where(scene: Scene, shape: str, colour: str, language: Language) -> str:
    """Where the objects of a shape and a colour are."""
    found = pick(scene, shape, colour)
    if not found:
        return absent(shape, colour, language)
    places = join([place(item.cell, language) for item in found], language)
    if language == "zh":
        return f"{kind(shape, colour, 'zh')}在{places}。"
    if len(found) == 1:
        return f"The {kind(shape, colour, 'en')} is {places}."
    return f"The {kind(shape, colour, 'en', plural=True)} are {places}."


def size_of(scene: Scene, shape: str, colour: str, language: Language) -> str:
    """How big the objects of a shape and a colour are."""
    found = pick(scene, shape, colour)
    if not found:
        return absent(shape, colour, language)
    if language == "zh":
        sizes = join(unique([{"large": "大的", "small": "小的"}[item.size] for item in found]), "zh")
        return f"{kind(shape, colour, 'zh')}是{sizes}。"
    sizes = join(unique([item.size for item in found]), "en")
    verb = "is" if len(found) == 1 else "are"
    return f"The {kind(shape, colour, 'en', plural=len(found) > 1)} {verb} {sizes}."


def count(scene: Scene, shape: str, colour: str, language: Language) -> str:
    """How many objects of a shape and a colour there are."""
    found = len(pick(scene, shape, colour))
    if language == "zh":
        return (
            f"图中有{phrases.number(found, 'zh')}个{kind(shape, colour, 'zh')}。"
            if found
            else absent(shape, colour, "zh")
        )
    if found == 1:
        return f"There is one {kind(shape, colour, 'en')}."
    return f"There are {phrases.number(found, 'en')} {kind(shape, colour, 'en', plural=True)}."


def exists(scene: Scene, shape: str, colour: str, language: Language) -> str:
    """Whether there is an object of a shape and a colour, and where."""
    found = pick(scene, shape, colour)
    if language == "zh":
        if not found:
            return "没有，" + absent(shape, colour, "zh")
        places = join([place(item.cell, "zh") for item in found], "zh")
        return f"有，{places}有{kind(shape, colour, 'zh')}。"
    if not found:
        return f"No, there is no {kind(shape, colour, 'en')} in the picture."
    places = join([place(item.cell, "en") for item in found], "en")
    if len(found) == 1:
        return f"Yes, there is {phrases.article(kind(shape, colour, 'en'))} {places}."
    many = kind(shape, colour, "en", plural=True)
    return f"Yes, there are {phrases.number(len(found), 'en')} {many}: {places}."


def at_place(scene: Scene, cell: int, language: Language) -> str:
    """What is in a cell of the grid."""
    found = [item for item in scene.items if item.cell == cell]
    if language == "zh":
        return f"{phrases.placed(found[0], 'zh')}。" if found else f"{place(cell, 'zh')}什么也没有。"
    return (
        f"There is {phrases.placed(found[0], 'en')}." if found else f"There is nothing {place(cell, 'en')}."
    )


def background(scene: Scene, language: Language) -> str:
    """What the background looks like."""
    name = phrases.colour(scene.background, language)
    return f"The background is {name}." if language == "en" else f"背景是{name}。"


def is_colour(scene: Scene, shape: str, colour: str, language: Language) -> str:
    """Whether the only object of a shape has a colour."""
    found = pick(scene, shape)
    if not found:
        return absent(shape, "", language)
    right = found[0].colour == colour
    name, true = phrases.colour(found[0].colour, language), kind(shape, "", language)
    if language == "zh":
        return f"{'是的' if right else '不是'}，{true}是{name}。"
    return f"{'Yes' if right else 'No'}, the {true} is {name}."


def colours(scene: Scene, language: Language) -> str:
    """Which colours the objects have."""
    if not scene.objects:
        return count(scene, "", "", language)
    names = join(
        [phrases.colour(name, language) for name in unique([item.colour for item in scene.objects])], language
    )
    return f"I see {names}." if language == "en" else f"图中有{names}。"


def shapes(scene: Scene, language: Language) -> str:
    """Which shapes there are."""
    if not scene.objects:
        return count(scene, "", "", language)
    names = [phrases.shape(item.shape, language) for item in scene.objects]
    if language == "en":
        return f"I see {join([phrases.article(name) for name in names], 'en')}."
    return f"图中有{join(unique(names), 'zh')}。"


def reads(scene: Scene, language: Language) -> str:
    """What is written in the picture."""
    texts = join([quoted(item.text, language) for item in scene.texts], language)
    if not texts:
        return "There is no text in the picture." if language == "en" else "图中没有文字。"
    return f"It says {texts}." if language == "en" else f"上面写着{texts}。"


def has_text(scene: Scene, language: Language) -> str:
    """Whether something is written in the picture."""
    if language == "en":
        return ("Yes. " if scene.texts else "No. ") + reads(scene, "en")
    return ("有，" if scene.texts else "没有，") + reads(scene, "zh")


def about_text(item: Item, wanted: str, language: Language) -> str:
    """The colour, place or length of the only text."""
    if wanted == "length":
        size = phrases.number(len(item.text), language)
        plural = "" if len(item.text) == 1 else "s"
        return f"It has {size} character{plural}." if language == "en" else f"它有{size}个字符。"
    if wanted == "colour":
        name = phrases.colour(item.colour, language)
        return f"The text is {name}." if language == "en" else f"文字是{name}。"
    if language == "en":
        return f"The text is {place(item.cell, 'en')}."
    return f"文字在{place(item.cell, 'zh')}。"


def relation(one: Item, other: Item, side: str, language: Language) -> str:
    """Whether one object is to a side ("left", "right", "above", "below") of another. The places come first:
    a model this small cannot compare what it has not said.
    """
    right = beside(one, other, side)
    places = place(one.cell, language), place(other.cell, language)
    if language == "en":
        verdict = "yes" if right else "no"
        return f"The {one.shape} is {places[0]} and the {other.shape} is {places[1]}, so {verdict}."
    first, second = phrases.shape(one.shape, "zh"), phrases.shape(other.shape, "zh")
    return f"{first}在{places[0]}，{second}在{places[1]}，所以{'是' if right else '不是'}。"


def beside(one: Item, other: Item, side: str) -> bool:
    """Whether one object's row or column of the grid is to a side of another's."""
    first, second = (item.cell % 3 if side in ("left", "right") else item.cell // 3 for item in (one, other))
    return first < second if side in ("left", "above") else first > second
