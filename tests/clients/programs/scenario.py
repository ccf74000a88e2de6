"""What every client program is asked to do, and how it says what came of it: one JSON object on the last line."""

import json
import sys

BASE_URL = sys.argv[1]
QUESTION = "How do I pull a model?"
WEATHER_QUESTION = "What is the weather in Paris?"
WEATHER = "sunny, 21 degrees"
MODEL, EMBEDDER, NOBODY = "guide", "bert-tiny", "nosuch"
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city"}},
            "required": ["city"],
        },
    },
}
COMMAND_SCHEMA = {
    "type": "object",
    "properties": {"command": {"enum": ["pull", "run"]}},
    "required": ["command"],
    "additionalProperties": False,
}


def tell(**results) -> None:
    """Everything that was asked for is there, or the test says what is missing."""
    sys.stdout.write(json.dumps(results) + "\n")


def error_of(ask) -> str:
    """The text of the error that `ask` must end with."""
    try:
        ask()
    except Exception as error:  # noqa: BLE001  (whatever class the library makes of it)
        return f"{type(error).__name__}: {error}"
    return ""
