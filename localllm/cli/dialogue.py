"""The REPL without its terminal: a line becomes a command, a command and a dialogue become the next dialogue. Pure.

    line ─▶ parse ─▶ Say | Leave | Help | Clear | Show | Load | Change | Wrong
                     Change holds what to set; `changed` applies it; repl.py acts on the others

Commands match exactly: `/byebye` is not `/bye`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from localllm.cli.arguments import parse_format, parse_think, text_without_quotes
from localllm.client import ChatRequest, Turn
from localllm.errors import InvalidOptionError
from localllm.generation import Options, parse_options

PARAMETERS = tuple(Options.__struct_fields__)
SHOWABLE = ("info", "license", "modelfile", "parameters", "system", "template")
HELP = {
    "": (
        "Available Commands:",
        "  /set            Set session variables",
        "  /show           Show model information",
        "  /load MODEL     Chat with another model",
        "  /clear          Forget the conversation",
        "  /bye, /exit     Leave",
        "  /?, /help       Help for a command",
        "  /? shortcuts    Help for the keys",
        "",
        'Use """ to begin and end a message of several lines.',
    ),
    "set": (
        "Available Commands:",
        "  /set system TEXT             Set the system message",
        "  /set parameter NAME VALUE    Set a parameter",
        "  /set think [LEVEL]           Let the model think first",
        "  /set nothink                 Do not let it think",
        "  /set format json|SCHEMA      Constrain the answer to JSON",
        "  /set noformat                Lift that",
        "  /set verbose                 Show statistics after each answer",
        "  /set quiet                   Do not",
        "  /set wordwrap                Break lines between words",
        "  /set nowordwrap              Do not",
    ),
    "show": (
        "Available Commands:",
        "  /show info          Details of this model",
        "  /show license       Its license",
        "  /show modelfile     Its Modelfile",
        "  /show parameters    Its parameters and the session's",
        "  /show system        The system message",
        "  /show template      Its chat template",
    ),
    "shortcuts": (
        "Available keyboard shortcuts:",
        "  Ctrl + j, Alt + Enter    Begin another line",
        "  Tab                      Complete a command or a model's name",
        "  Ctrl + r                 Search the history",
        "  Ctrl + l                 Clear the screen",
        "  Ctrl + c                 Stop the answer; clear the line",
        "  Ctrl + d                 Leave",
    ),
}


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End the session."""


@dataclass(frozen=True, slots=True)
class Help:
    """Show one of the pages of HELP."""

    topic: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget the conversation, keep the settings."""


@dataclass(frozen=True, slots=True)
class Show:
    """Show one of SHOWABLE."""

    what: str


@dataclass(frozen=True, slots=True)
class Load:
    """Chat with another model."""

    model: str


@dataclass(frozen=True, slots=True)
class Change:
    """Set one field of the dialogue (`parameters` are merged) and say so."""

    field: str
    value: Any
    said: str


@dataclass(frozen=True, slots=True)
class Wrong:
    """Not a command, or one with wrong words."""

    said: str


Command = Say | Leave | Help | Clear | Show | Load | Change | Wrong


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One session: what was said and what was set. `parameters` has names of Ollama's options."""

    model: str
    turns: tuple[Turn, ...] = ()
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    verbose: bool = False
    word_wrap: bool = True

    def request(self, text: str) -> ChatRequest:
        """The request that asks for the answer to `text`."""
        return ChatRequest(
            model=self.model,
            messages=(*self._opening(), *self.turns, Turn("user", text)),
            format=self.format,
            think=self.think,
            keep_alive=self.keep_alive,
            options=self.parameters or None,
        )

    def answered(self, text: str, answer: str, thinking: str = "") -> Dialogue:
        """After an answer, or the part of it that came before it was stopped; nothing came: as if never asked."""
        if not answer and not thinking:
            return self
        turns = (Turn("user", text), Turn("assistant", answer, thinking=thinking or None))
        return replace(self, turns=self.turns + turns)

    def _opening(self) -> tuple[Turn, ...]:
        return (Turn("system", self.system),) if self.system else ()


def parse(line: str) -> Command:
    """What a line asks for."""
    if not line.startswith("/"):
        return Say(text_without_quotes(line))
    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if word in ("/bye", "/exit") and not rest:
        return Leave()
    if word in ("/?", "/help"):
        topic = rest.removeprefix("/")
        return Help(topic) if topic in HELP else Wrong(f"No help for '{rest}'. Type /? for help")
    if word == "/clear" and not rest:
        return Clear()
    if word == "/load":
        return Load(rest) if rest else Wrong("Usage:\n  /load MODEL")
    if word == "/show":
        return Show(rest) if rest in SHOWABLE else (_unknown(line) if rest else Help("show"))
    if word == "/set":
        return _parse_set(*_split(rest)) if rest else Help("set")
    return _unknown(line)


def changed(dialogue: Dialogue, change: Change) -> Dialogue:
    """The dialogue with a change made."""
    if change.field == "parameters":
        return replace(dialogue, parameters={**dialogue.parameters, **change.value})
    changes: dict[str, Any] = {change.field: change.value}
    return replace(dialogue, **changes)


def is_complete(text: str) -> bool:
    '''Whether Enter ends the input: not inside """ that are still open.'''
    body = text.strip()
    for opening in ("", "/set system "):
        if body.startswith(f'{opening}"""'):
            return len(body) >= len(opening) + 6 and body.endswith('"""')
    return True


def completions(text: str, models: tuple[str, ...]) -> tuple[str, ...]:
    """The whole lines that begin with `text`: commands, and names after /load."""
    if not text.startswith("/"):
        return ()
    lines = [
        *("/bye", "/exit", "/help", "/help set", "/help show", "/help shortcuts", "/clear", "/load "),
        *(f"/show {what}" for what in SHOWABLE),
        *(f"/set {what}" for what in ("system ", "parameter ", "format json", *_FLAGS, "think high", "think low")),
        *(f"/set parameter {name} " for name in PARAMETERS),
        *(f"/load {model}" for model in models),
    ]
    return tuple(line for line in lines if line.startswith(text) and line != text)


_FLAGS: dict[str, Change] = {
    "verbose": Change("verbose", True, "Set 'verbose' mode."),
    "quiet": Change("verbose", False, "Set 'quiet' mode."),
    "wordwrap": Change("word_wrap", True, "Set 'wordwrap' mode."),
    "nowordwrap": Change("word_wrap", False, "Set 'nowordwrap' mode."),
    "noformat": Change("format", None, "Disabled format."),
    "think": Change("think", True, "Set 'think' mode."),
    "nothink": Change("think", False, "Set 'nothink' mode."),
}


def _parse_set(name: str, rest: str) -> Command:
    if not rest and name in _FLAGS:
        return _FLAGS[name]
    try:
        if name == "system":
            text = text_without_quotes(rest)
            return Change("system", text, "Set system message.") if text else Wrong("Usage:\n  /set system TEXT")
        if name == "think":
            return Change("think", parse_think(rest), f"Set 'think' mode to '{rest}'.")
        if name == "format" and rest:
            return Change("format", parse_format(rest), f"Set format to '{rest}'.")
        if name == "parameter":
            return _parse_parameter(*_split(rest))
    except ValueError as error:
        return Wrong(f"invalid value for {name}: {error}")
    except InvalidOptionError as error:
        return Wrong(str(error))
    return _unknown(f"/set {name} {rest}".strip())


def _parse_parameter(name: str, text: str) -> Command:
    if not text:
        return Wrong("Usage:\n  /set parameter NAME VALUE\n\nNames: " + ", ".join(PARAMETERS))
    known, unknown = parse_options({name: _parameter_value(name, text)})
    if unknown:
        return Wrong(f"Unknown parameter '{name}'. The parameters are {', '.join(PARAMETERS)}")
    return Change("parameters", {name: _plain(getattr(known, name))}, f"Set parameter '{name}' to '{text}'")


def _parameter_value(name: str, text: str) -> object:
    if name == "stop":
        return [word.strip('"') for word in text.split()]
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:  # a word, which parse_options refuses with the type it needs
        return text


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _split(text: str) -> tuple[str, str]:
    first, _, rest = text.partition(" ")
    return first, rest.strip()


def _unknown(line: str) -> Wrong:
    return Wrong(f"Unknown command '{line.strip()}'. Type /? for help")
