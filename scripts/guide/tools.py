"""Invented tools and requests that fit them, so that a small model learns to copy names and values.

A `Case` is one request with its tools and the calls it should lead to. Most tools are put together from
verbs, nouns and parameters at random; some, above all the weather, are the ones every example uses.
The names of `HELD_OUT_*` and the tools for which `is_held_out` is true never occur in training.
"""

import random
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from guide.phrasing import invented_word, repeating_word, spelled_word

CITIES = (*(
    "Paris London Berlin Rome Madrid Tokyo Beijing Delhi Moscow Vienna Prague Warsaw Oslo Lisbon Athens Cairo Lima "
    "Boston Chicago Sydney Toronto Seoul Dublin Zurich Munich Hamburg Milan Naples Venice Amsterdam Brussels Budapest "
    "Istanbul Mumbai Nairobi Lagos Havana Miami Dallas Seattle Denver Houston Kyoto Osaka Shanghai Bangkok Jakarta "
    "Manila Geneva Basel Bern Lyon Nice Porto Seville Bergen Malmo Turku Riga Vilnius Krakow Bucharest Sofia "
    "Belgrade Zagreb Tunis Casablanca Accra Dakar Quito Bogota Caracas Santiago Montevideo Brisbane Perth Auckland"
).split(), "New York", "San Francisco", "Los Angeles", "Cape Town", "Hong Kong", "Mexico City", "New Delhi",
    "Buenos Aires", "Rio de Janeiro", "St. Petersburg", "San Francisco, CA", "Boston, MA", "Austin, TX",
    "Paris, France", "London, UK", "Berlin, Germany", "Tokyo, Japan", "Zürich", "München", "São Paulo",
)  # fmt: skip
HELD_OUT_CITIES = ("Helsinki", "Stockholm", "Copenhagen", "Melbourne", "Edinburgh", "Valencia", "Singapore",
                   "Reykjavik", "Portland, OR", "Tel Aviv", "Marseille", "Philadelphia")  # fmt: skip
# Places whose names are cut and joined to others that do not exist, for copying.
FURTHER_PLACES = (
    "Antwerp Rotterdam Utrecht Leipzig Stuttgart Dresden Nuremberg Salzburg Innsbruck Lausanne Toulouse Bordeaux "
    "Grenoble Strasbourg Florence Bologna Palermo Trieste Barcelona Granada Cordoba Malaga Coimbra Glasgow Liverpool "
    "Manchester Birmingham Sheffield Cardiff Belfast Galway Gothenburg Uppsala Aarhus Odense Tampere Oulu Tallinn "
    "Gdansk Wroclaw Bratislava Ljubljana Sarajevo Skopje Thessaloniki Izmir Ankara Tbilisi Yerevan Baku Tashkent "
    "Alexandria Marrakesh Addis Kampala Kinshasa Johannesburg Windhoek Antananarivo Kathmandu Hyderabad Bangalore "
    "Chennai Kolkata Colombo Hanoi Saigon Vientiane Yogyakarta Surabaya Chengdu Guangzhou Shenzhen Sapporo Fukuoka "
    "Hiroshima Honolulu Vancouver Winnipeg Montreal Halifax Albuquerque Indianapolis Minneapolis Milwaukee Cincinnati "
    "Sacramento Tallahassee Guadalajara Tegucigalpa Managua Medellin Guayaquil Cochabamba Valparaiso Recife Wellington"
).split()
PEOPLE = ("Anna Ben Carla David Emma Felix Grace Henry Ida Jonas Kate Liam Maria Noah Olga Peter Rosa Sam Tina Victor "
          "Wendy Yusuf Zoe Alice Bob Carol Frank Hannah Ivan Julia").split()  # fmt: skip
DAYS = ("Monday Tuesday Wednesday Thursday Friday Saturday Sunday today tomorrow tonight 2025-01-31 2026-03-15 "
        "2024-12-24 2026-07-04").split()  # fmt: skip
TOPICS = ("jazz music|cheap flights|python books|red shoes|the solar system|climate|local news|running shoes|old maps|"
          "cat food|garden chairs|wind power|tea|chess openings|milk and bread|a new laptop|space travel|the budget|"
          "quarterly report|team lunch|holiday plans|fresh bread|blue paint|train tickets").split("|")  # fmt: skip
VERBS = (
    "get find search fetch lookup read check set send create add delete remove update open close start stop "
    "play book order cancel move copy print show count list convert compute save share schedule track rename "
    "lock unlock enable disable measure compare sort rate invite register reserve archive"
).split()  # fmt: skip
NOUNS = (
    "weather forecast time date news price stock ticket flight train hotel room table light lamp door window "
    "alarm timer reminder event meeting calendar note file folder document report invoice order payment "
    "account user contact message email letter song playlist video photo image map route distance temperature "
    "humidity speed score game player team recipe product cart parcel shipment customer project task issue "
    "branch commit job server database table backup sensor camera robot engine printer phone profile password "
    "token license course student grade book author article comment review rating vote poll question answer "
    "translation word sentence currency rate loan budget salary tax bill contract subscription device "
    "thermostat heater fan garage vehicle parking bike bus station airport gate seat menu dish drink guest "
    "visitor patient doctor appointment prescription sample experiment dataset model chart graph matrix number "
    "vector"
).split()  # fmt: skip
ADJECTIVES = "current new last next main local remote daily weekly monthly public private urgent shared".split()
LEADS = ("", "", "", "", "Please ", "Can you ", "Could you ", "I want to ", "I need to ", "Please, ", "Hi, ", "Now ",
         "Would you ", "I'd like to ", "Use a tool to ", "Go and ", "Quickly ", "Hey, ")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A request, the tools on offer and the calls that answer it; `again` draws another request for its tool."""

    question: str
    tools: list[Any]
    calls: list[dict[str, Any]]
    thought: str
    weather: bool = False
    parameters: list[str] = field(default_factory=list)
    varied: bool = False
    again: Callable[[random.Random], tuple[str, dict[str, Any]]] | None = None


def is_held_out(tool_name: str) -> bool:
    """One tool name in twelve is kept for the measurement."""
    return zlib.crc32(tool_name.encode()) % 12 == 0


def number(source: random.Random) -> int | float:
    match source.randrange(4):
        case 0:
            return source.randint(0, 12)
        case 1:
            return source.randint(10, 99)
        case 2:
            return source.randint(100, 9999)
        case _:
            return round(source.uniform(0, 100), 1)


def word(source: random.Random) -> str:
    """A value nobody has seen before, or nearly so."""
    match source.randrange(5):
        case 0 | 1:
            return invented_word(source)
        case 2:
            return invented_word(source).capitalize()
        case 3:
            return "".join(source.choice(string.ascii_uppercase) for _ in range(source.randint(2, 5)))
        case _:
            return f"{source.choice(string.ascii_uppercase)}{source.randint(1, 9999)}"


def city(source: random.Random) -> str:
    if source.random() < 0.55:
        return source.choice(CITIES)
    name = invented_word(source).capitalize()
    return name if source.random() < 0.85 else f"{name} {invented_word(source).capitalize()}"


def digits(source: random.Random, count: int) -> str:
    """Digits of which some occur twice, and now and then one after the other."""
    few = source.choice(("0123456789", source.sample("0123456789", 3)))
    return source.choice("123456789") + "".join(source.choice(few) for _ in range(count - 1))


def varied_number(source: random.Random) -> int | float:
    """A number of one to six digits, or with one or two after the point."""
    whole = int(digits(source, source.choice((1, 2, 3, 3, 4, 4, 5, 6))))
    return whole if source.random() < 0.75 else round(whole % 1000 + source.randint(1, 99) / 100, source.randint(1, 2))


def varied_name(source: random.Random) -> str:
    """A name, of any letters and syllables, that nobody has seen before and that is not held out."""
    match source.randrange(5):
        case 0:
            name = repeating_word(source)
        case 1:
            name = invented_word(source)
        case 2:
            name = spelled_word(source)
        case _:
            first, last = (source.choice((*CITIES, *FURTHER_PLACES, *FURTHER_PLACES, *PEOPLE)) for _ in "12")
            name = first if source.random() < 0.3 else first[: source.randint(2, 6)] + last[-source.randint(2, 6) :]
    name = name[0].upper() + name[1:]
    return varied_name(source) if any(held.lower() in name.lower() for held in HELD_OUT_CITIES) else name


def varied_place(source: random.Random) -> str:
    """One name or two, or with a country or state."""
    name = varied_name(source)
    match source.randrange(8):
        case 0 | 1:
            place = f"{name} {varied_name(source)}"
        case 2:
            place = f"{name}, {source.choice(('CA', 'MA', 'TX', 'UK', 'NY', 'IL', 'France', 'Spain', 'Japan'))}"
        case _:
            place = name
    return varied_place(source) if place in HELD_OUT_CITIES else place


def varied_word(source: random.Random) -> str:
    """A code, or a word."""
    match source.randrange(6):
        case 0 | 1:
            return source.choice(string.ascii_uppercase) + digits(source, source.randint(2, 5))
        case 2:
            return "".join(source.choice(string.ascii_uppercase) for _ in range(source.randint(2, 6)))
        case 3:
            return f"{varied_word(source)}-{digits(source, source.randint(1, 3))}"
        case 4:
            return repeating_word(source)
        case _:
            return varied_name(source).lower()


def varied_text(source: random.Random) -> str:
    """Two to four words."""
    if source.random() < 0.25:
        return source.choice(TOPICS)
    words = [word for topic in source.sample(TOPICS, 3) for word in topic.split()]
    return " ".join(
        source.choice(words) if source.random() < 0.4 else source.choice((invented_word, repeating_word))(source)
        for _ in range(source.randint(2, 4))
    )


# name of the parameter, JSON type, how to draw a value, how a request says it
PARAMETERS: tuple[tuple[tuple[str, ...], str, Any, tuple[str, ...]], ...] = (
    (("city", "location", "place", "town", "destination", "address"), "string", city,
     ("in {v}", "for {v}", "in {v}", "at {v}")),
    (("name", "person", "recipient", "contact", "user", "customer", "owner", "to"), "string",
     lambda s: s.choice(PEOPLE) if s.random() < 0.6 else invented_word(s).capitalize(),
     ("for {v}", "to {v}", "with the {p} {v}", "of {v}")),
    (("query", "topic", "title", "text", "subject", "message", "keyword", "content", "description"), "string",
     lambda s: s.choice(TOPICS) if s.random() < 0.6 else f"{invented_word(s)} {invented_word(s)}",
     ("about {v}", 'with the {p} "{v}"', '"{v}"', "with {p} {v}", "'{v}'")),
    (("amount", "count", "limit", "quantity", "minutes", "price", "size", "level", "volume", "number", "degrees",
      "seconds", "age", "width", "height", "weight"), "number", number,
     ("with {p} {v}", "of {v}", "with a {p} of {v}", "{p} {v}", "with the {p} {v}")),
    (("id", "code", "symbol", "key", "tag", "label", "status", "type", "category", "color", "mode", "unit"), "string",
     word, ("with {p} {v}", "with the {p} {v}", "{p} {v}", "where the {p} is {v}", "{v}")),
    (("date", "day", "when", "due"), "string", lambda s: s.choice(DAYS), ("on {v}", "for {v}", "with {p} {v}")),
    (("urgent", "public", "loud", "verbose", "force", "active", "express"), "boolean", lambda s: s.random() < 0.5,
     ("with {p} {v}", "with {p} set to {v}", "{p}: {v}", "where {p} is {v}")),
)  # fmt: skip

VARIED_VALUES = (
    varied_place,
    lambda source: source.choice(PEOPLE) if source.random() < 0.3 else varied_place(source).partition(",")[0],
    varied_text,
    varied_number,
    varied_word,
    lambda source: source.choice(DAYS) if source.random() < 0.5 else f"20{source.randint(20, 39)}-"
    f"{source.randint(1, 12):02}-{source.randint(1, 28):02}",
    lambda source: source.random() < 0.5,
)  # fmt: skip


def varied_parameters(source: random.Random) -> tuple[tuple[tuple[str, ...], str, Any, tuple[str, ...]], ...]:
    """PARAMETERS with other values, and half of them under other names, which only the tool tells."""
    other_names = source.sample(NOUNS, len(PARAMETERS))
    drawn = []
    for (names, kind, _, forms), value, other_name in zip(PARAMETERS, VARIED_VALUES, other_names, strict=True):
        if source.random() < 0.5:
            other = source.choice((other_name, invented_word(source), f"{other_name}_{source.choice(names)}"))
            names = (other,)
        drawn.append((names, kind, value, forms))
    return tuple(drawn)


WEATHER_NAMES = ("get_weather", "get_weather", "get_weather", "get_current_weather", "get_current_weather", "weather",
                 "fetch_weather", "current_weather", "lookup_weather", "getWeather", "weather_in", "get_forecast",
                 "get_temperature", "get_weather_forecast", "get_conditions")  # fmt: skip
WEATHER_QUESTIONS = (
    "What is the weather in {v}?", "What is the weather in {v}?", "What's the weather in {v}?",
    "What is the weather like in {v}?", "What's the weather like in {v} today?", "How is the weather in {v}?",
    "What is the weather today in {v}?", "Is it raining in {v}?", "Will it rain in {v}?", "How warm is it in {v}?",
    "What is the temperature in {v}?", "weather in {v}", "Tell me the weather in {v}", "weather {v}",
    "How's the weather in {v} right now?", "What is the weather in {v} tomorrow?", "Is it cold in {v}?",
    "Do I need an umbrella in {v}?", "Get the weather for {v}", "Please check the weather in {v}.",
    "What is the current weather in {v}?", "Can you tell me the weather in {v}?", "Is it sunny in {v} today?",
    "I am going to {v}. How is the weather there?", "Use the tool to get the weather in {v}.",
)  # fmt: skip
NEXT_WEATHER_QUESTIONS = ("And in {v}?", "And {v}?", "What about {v}?", "How about {v}?", "{v}?")
CITY_HINTS = (
    "The city name",
    "The name of the city",
    "City",
    "The city",
    "A city",
    "City name, e.g. Paris",
    "",
    "The city and state, e.g. San Francisco, CA",
    "The location to get the weather for",
    "Name of a town",
)
WEATHER_HINTS = ("Get the weather in a city", "Get the current weather for a city", "Get the current weather",
                 "Returns the weather of a place", "Look up the weather", "Get the weather", "",
                 "Get the current weather in a given location", "The weather in a city")  # fmt: skip


def shuffled(items: dict[str, Any], source: random.Random) -> dict[str, Any]:
    """The same object with its keys in another order; programs differ in the order they send."""
    match source.randrange(4):
        case 0:
            return dict(sorted(items.items()))
        case 1:
            pairs = list(items.items())
            source.shuffle(pairs)
            return dict(pairs)
        case _:
            return items


def tool_object(name: str, hint: str, properties: dict[str, Any], required: list[str], source: random.Random) -> Any:
    """A tool in the layout of the OpenAI API, or now and then bare as some programs send it."""
    parameters = shuffled({"type": "object", "properties": properties, "required": required}, source)
    if not required and source.random() < 0.5:
        parameters.pop("required")
    function: dict[str, Any] = {"name": name, "description": hint, "parameters": parameters}
    if not hint:
        function.pop("description")
    return shuffled({"type": "function", "function": shuffled(function, source)}, source)


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def thought_for(name: str) -> str:
    return f"The tool {name} fits what the user asks. I call it."


def weather_case(source: random.Random, cities: tuple[str, ...] = ()) -> Case:
    """The case of every tutorial: one tool for the weather, a city in the question."""
    name = source.choice(WEATHER_NAMES)
    key = source.choice(("city", "city", "location", "location", "place", "town"))
    place = source.choice(cities) if cities else city(source)
    properties: dict[str, Any] = {key: {"type": "string"}}
    if hint := source.choice(CITY_HINTS):
        properties[key]["description"] = hint
    question, arguments, required = source.choice(WEATHER_QUESTIONS).format(v=place), {key: place}, [key]
    if source.random() < 0.3:
        unit_key = source.choice(("unit", "format", "units"))
        properties[unit_key] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        if source.random() < 0.4:
            unit = source.choice(("celsius", "fahrenheit"))
            question = question.rstrip("?.") + f" in {unit}" + ("?" if question.endswith("?") else "")
            arguments[unit_key] = unit
        elif source.random() < 0.3:
            required = [key, unit_key]
            arguments[unit_key] = "celsius"
    calls = [call(name, arguments)]
    if len(arguments) == 1 and " in {v}" and question.endswith(f"in {place}?") and source.random() < 0.1:
        other = source.choice(cities) if cities else city(source)
        question, calls = question[:-1] + f" and {other}?", [*calls, call(name, {key: other})]
    tool = tool_object(name, source.choice(WEATHER_HINTS), properties, required, source)

    def again(source: random.Random) -> tuple[str, dict[str, Any]]:
        place = source.choice(cities) if cities else city(source)
        values = {key: place} if len(required) == 1 else {**arguments, key: place}
        return source.choice((*WEATHER_QUESTIONS, *NEXT_WEATHER_QUESTIONS)).format(v=place), values

    return Case(question, [tool], calls, thought_for(name), weather=True, parameters=[key], again=again)


SUM_QUESTIONS = ("What is {a} {s} {b}?", "what is {a} {s} {b}", "{a} {s} {b}", "Calculate {a} {s} {b}",
                 "How much is {a} {s} {b}?")  # fmt: skip


def sum_case(source: random.Random, largest: int = 500) -> Case:
    """Arithmetic with two numbers, as in the examples of the Ollama client."""
    kinds = (
        ("add", "plus", "sum"),
        ("subtract", "minus", "difference"),
        ("multiply", "times", "product"),
        ("divide", "divided by", "quotient"),
    )
    verb, sign, noun = source.choice(kinds)
    name = source.choice((verb, f"{verb}_two_numbers", f"{verb}_numbers", f"calculate_{noun}"))
    first_key, second_key = source.choice((("a", "b"), ("x", "y"), ("first", "second"), ("num1", "num2")))
    kind = source.choice(("integer", "number"))
    first, second = source.randint(0, largest), source.randint(0, largest)
    question = source.choice(SUM_QUESTIONS).format(a=first, b=second, s=sign)
    properties = {first_key: {"type": kind}, second_key: {"type": kind}}
    hint = source.choice((f"{verb.capitalize()} two numbers", f"The {noun} of two numbers", ""))
    tool = tool_object(name, hint, properties, [first_key, second_key], source)

    def again(source: random.Random) -> tuple[str, dict[str, Any]]:
        first, second = source.randint(0, 5000), source.randint(0, 500)
        question = source.choice(SUM_QUESTIONS).format(a=first, b=second, s=sign)
        return question, {first_key: first, second_key: second}

    calls = [call(name, {first_key: first, second_key: second})]
    return Case(question, [tool], calls, thought_for(name), again=again)


def bare_case(source: random.Random) -> Case:
    """A tool without parameters."""
    noun = source.choice(NOUNS)
    name = source.choice(("get_{}", "get_current_{}", "read_{}", "current_{}", "list_{}s")).format(noun)
    spoken = noun + ("s" if name.endswith("s") else "")
    forms = ("What is the {}?", "Get the {}", "Tell me the {}", "Show me the {}", "what's the current {}",
             "Please get the {}.")  # fmt: skip
    question = source.choice(forms).format(spoken)
    hint = source.choice((f"Get the {spoken}", f"Returns the current {spoken}", ""))
    return Case(question, [tool_object(name, hint, {}, [], source)], [call(name, {})], thought_for(name))


def joined_name(words: list[str], source: random.Random) -> str:
    match source.randrange(8):
        case 0:
            return words[0] + "".join(part.capitalize() for part in words[1:])
        case 1:
            return "-".join(words)
        case _:
            return "_".join(words)


def spoken_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def say_request(verb: str, spoken: str, phrases: list[str], source: random.Random) -> str:
    lead = source.choice(LEADS)
    request = f"{lead}{verb} {source.choice(('the', 'a', 'the', 'my'))} {spoken} {' '.join(phrases)}"
    if verb in {"get", "find", "check", "read", "fetch", "lookup", "show"} and source.random() < 0.4:
        request = f"{source.choice(('What is the', 'Tell me the', 'Give me the'))} {spoken} {' '.join(phrases)}"
    request = request[0].upper() + request[1:] if source.random() < 0.85 else request
    return request + source.choice(("", ".", "", "?" if request.startswith(("What", "C", "W")) else "."))


def invented_case(source: random.Random, *, held_out: bool = False, varied: bool = False) -> Case:
    """A tool put together at random, and a request that names its verb, its noun and its values."""
    verb = source.choice(VERBS)
    noun = [source.choice(NOUNS) if source.random() < 0.8 else invented_word(source)]
    if source.random() < 0.25:
        noun.insert(0, source.choice((*ADJECTIVES, source.choice(NOUNS))))
    name = joined_name([verb, *noun], source)
    if is_held_out(name) != held_out:
        return invented_case(source, held_out=held_out, varied=varied)
    offered = varied_parameters(source) if varied else PARAMETERS
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    required: list[str] = []
    spoken_by: dict[str, tuple[Any, tuple[str, ...]]] = {}
    phrases = []
    for names, kind, draw, forms in source.sample(offered, source.choice((1, 1, 1, 2, 2, 3))):
        key, value = source.choice(names), draw(source)
        if key in properties:
            continue
        shown = "integer" if isinstance(value, int) and kind == "number" and source.random() < 0.5 else kind
        properties[key] = {"type": shown}
        if source.random() < 0.4:
            properties[key]["description"] = source.choice((f"The {key}", f"The {key} of the {noun[-1]}", f"A {key}"))
        if source.random() < 0.85 or not arguments:
            arguments[key], spoken_by[key] = value, (draw, forms)
            required.append(key)
            phrases.append(source.choice(forms).format(p=key, v=spoken_value(value)))
    spoken, question = " ".join(noun), say_request(verb, " ".join(noun), phrases, source)
    hint = source.choice((f"{verb.capitalize()} the {spoken}", f"{verb.capitalize()} a {spoken}", f"Use this to {verb} "
                          f"the {spoken}", "", f"{verb.capitalize()} {spoken}"))  # fmt: skip
    tool = tool_object(name, hint, properties, required, source)

    def again(source: random.Random) -> tuple[str, dict[str, Any]]:
        values = {key: draw(source) for key, (draw, _) in spoken_by.items()}
        phrases = [
            source.choice(forms).format(p=key, v=spoken_value(values[key])) for key, (_, forms) in spoken_by.items()
        ]
        return say_request(verb, spoken, phrases, source), values

    return Case(question, [tool], [call(name, arguments)], thought_for(name), again=again)


def ask_again(case: Case, source: random.Random) -> Case:
    """Another request for the tool of the same case; the same request when its tool takes nothing."""
    if case.again is None:
        return case
    question, arguments = case.again(source)
    return replace(case, question=question, calls=[call(case.calls[0]["name"], arguments)])


def draw_case(source: random.Random, *, held_out: bool = False) -> Case:
    """One request with one to four tools, of which one fits."""
    kind = source.random()
    if kind < 0.3:
        case = weather_case(source, HELD_OUT_CITIES if held_out else ())
    elif kind < 0.38:
        case = sum_case(source)
    elif kind < 0.42 and not held_out:
        case = bare_case(source)
    else:
        case = invented_case(source, held_out=held_out)
    tools = [*case.tools, *other_tools(source, case, source.choice((0, 0, 0, 0, 1, 1, 2)))]
    source.shuffle(tools)
    return replace(case, tools=tools)


def draw_varied_case(source: random.Random) -> Case:
    """As draw_case in training, with values and parameters that are harder to repeat."""
    kind = source.random()
    if kind < 0.3:
        case = weather_case(source, tuple(varied_place(source) for _ in range(4)))
    elif kind < 0.37:
        case = sum_case(source, source.choice((500, 9_999, 99_999)))
    else:
        case = invented_case(source, varied=True)
    tools = [*case.tools, *other_tools(source, case, source.choice((0, 0, 0, 0, 1, 1, 2)))]
    source.shuffle(tools)
    return replace(case, tools=tools, varied=True)


def other_tools(source: random.Random, case: Case | None, count: int) -> list[Any]:
    """Tools that do not fit: another verb and another noun than those of the case."""
    taken = set(case.calls[0]["name"].lower().replace("-", "_").split("_")) if case else set()
    others: list[Any] = []
    while len(others) < count:
        pick = weather_case(source) if case and not case.weather and source.random() < 0.2 else invented_case(source)
        name = pick.calls[0]["name"].lower()
        if not any(part in name for part in taken if len(part) > 2):
            others += pick.tools
            taken |= set(name.replace("-", "_").split("_"))
    return others
