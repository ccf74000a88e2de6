"""What tools return, and the sentence that tells it: the second half of a conversation with tools."""

import random
from typing import Any

from guide.phrasing import invented_word
from guide.template import to_json
from guide.tools import NOUNS, Case, number, varied_number, varied_word, word

SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "clear", "snowy", "stormy", "partly cloudy", "light rain")
STATUSES = ("ok", "sent", "done", "created", "open", "closed", "pending", "confirmed", "saved", "not found", "full")


def weather_result(case: Case, source: random.Random) -> tuple[str, str]:
    place = next(iter(case.calls[0]["arguments"].values()))
    degrees, sky = source.randint(-15, 40), source.choice(SKIES)
    if source.random() < 0.5:
        text = source.choice((f"{sky}, {degrees} degrees", f"{degrees} degrees and {sky}", f"{degrees}°C, {sky}",
                              f"{degrees} C", sky, f"{degrees}", f"{degrees} degrees", f"{degrees}°C",
                              f"It is {sky} and {degrees} degrees"))  # fmt: skip
        return text, f"The weather in {place}: {text}."
    result: dict[str, Any] = {"temperature": degrees, source.choice(("condition", "sky", "weather", "conditions")): sky}
    if source.random() < 0.6:
        result = {next(iter(case.calls[0]["arguments"])): place, **result}
    return to_json(result), f"The weather in {place} is {sky}, {degrees} degrees."


def other_value(source: random.Random, *, varied: bool) -> Any:
    if varied:
        return source.choice((varied_number, varied_word, varied_word, word))(source)
    return source.choice((number, word, word, lambda s: s.choice(STATUSES), lambda s: s.random() < 0.5))(source)


def other_result(source: random.Random, *, varied: bool) -> tuple[str, str]:
    if source.random() < 0.35:
        text = str(source.choice((number(source), word(source), source.choice(STATUSES),
                                  f"{invented_word(source)} {source.choice(STATUSES)}")))  # fmt: skip
        return text, f"The result is {text}."
    keys = source.sample(
        (*NOUNS, "status", "result", "result", "id", "total", "value", "name"), source.choice((1, 1, 2, 3))
    )
    result = {key: other_value(source, varied=varied) for key in dict.fromkeys(keys)}
    told = [f"The {key} is {to_json(value).strip(chr(34))}." for key, value in result.items()]
    return to_json(result), " ".join(told)


def draw_result(case: Case, source: random.Random) -> tuple[str, str]:
    """What the tool returned, and the answer that uses it."""
    return weather_result(case, source) if case.weather else other_result(source, varied=case.varied)
