"""The chat on a terminal: prompt_toolkit reads lines, the client answers, dialogue.py decides what they mean.

History lies in <state_dir>/history, readable by its owner only. Ctrl-C during an answer stops that answer; the part
that came stays in the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from localllm.cli.answer import AnswerWriter, show_answer, statistics_lines
from localllm.cli.arguments import RunOptions
from localllm.cli.dialogue import (
    HELP,
    Change,
    Clear,
    Command,
    Dialogue,
    Help,
    Leave,
    Load,
    Say,
    Show,
    Wrong,
    changed,
    completions,
    is_complete,
    parse,
)
from localllm.cli.output import Screen, error_text
from localllm.cli.sheet import sheet_lines
from localllm.client import ChatRequest, Client
from localllm.errors import LocalllmError

_PLACEHOLDER = "Send a message (/? for help)"


class Repl:
    """One session. Owns the dialogue; everything else is asked for or shown."""

    def __init__(self, client: Client, screen: Screen, options: RunOptions, history: Path) -> None:
        self._client = client
        self._screen = screen
        self._style = options.style
        self._dialogue = Dialogue(
            model=options.model,
            format=options.format,
            think=options.think,
            keep_alive=options.keep_alive,
            verbose=options.style.shows_statistics,
            word_wrap=options.style.wraps_words,
        )
        self._history = history

    def run(self) -> None:
        """Chat until /bye or Ctrl-D. Raises ModelNotFoundError for a model that does not exist."""
        self._load(self._dialogue.model)
        session = self._prompt_session()
        while True:
            try:
                line = session.prompt()
            except KeyboardInterrupt:  # only on an empty line, see _key_bindings
                self._screen.out("\nUse Ctrl + d or /bye to exit.\n\n")
                continue
            except EOFError:
                return
            if not line.strip():
                continue
            command = parse(line)
            if isinstance(command, Leave):
                return
            self._act_safely(command)

    def _act_safely(self, command: Command) -> None:
        try:
            self._act(command)
        except LocalllmError as error:  # one failed answer does not end the session
            self._screen.say(error_text(error) + "\n")

    def _act(self, command: Command) -> None:
        match command:
            case Say(text):
                self._answer(text)
            case Help(topic):
                self._screen.out("\n".join([*HELP[topic], "", ""]))
            case Clear():
                self._dialogue = replace(self._dialogue, turns=())
                self._screen.out("Cleared session context\n")
            case Show(what):
                self._show(what)
            case Load(model):
                self._load(model)
                self._dialogue = replace(self._dialogue, model=model, turns=())
            case Change(said=said):
                self._dialogue = changed(self._dialogue, command)
                self._screen.out(f"{said}\n")
            case Wrong(said):
                self._screen.out(f"{said}\n")

    def _load(self, model: str) -> None:
        self._client.show(model)
        request = ChatRequest(model=model)  # without keep_alive: one of 0 would mean "unload"
        writer = AnswerWriter(self._screen, self._style)
        show_answer(self._client.chat(request), model, self._screen, writer)

    def _answer(self, text: str) -> None:
        dialogue = self._dialogue
        style = replace(self._style, wraps_words=dialogue.word_wrap, shows_statistics=dialogue.verbose)
        writer = AnswerWriter(self._screen, style)
        try:
            last = show_answer(self._client.chat(dialogue.request(text)), dialogue.model, self._screen, writer)
            if dialogue.verbose:
                self._screen.say("\n".join(["", *statistics_lines(last)]))
            self._screen.out("\n")
        except KeyboardInterrupt:
            self._screen.out("\n")
        finally:
            self._dialogue = dialogue.answered(text, writer.content, writer.thinking)

    def _show(self, what: str) -> None:
        info = self._client.show(self._dialogue.model)
        if what == "info":
            lines = sheet_lines(info)
        elif what == "parameters":
            lines = _parameter_lines(info.parameters, self._dialogue)
        elif what == "system":
            lines = [self._dialogue.system or info.system or "No system message was specified for this model."]
        else:
            lines = [getattr(info, what) or f"No {what} was specified for this model."]
        self._screen.out(self._screen.clean("\n".join(lines).rstrip("\n")) + "\n\n")

    def _prompt_session(self) -> PromptSession[str]:
        self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._history.touch(mode=0o600)
        return PromptSession(
            message=">>> ",
            prompt_continuation="... ",
            placeholder=FormattedText([("fg:ansibrightblack" if self._screen.color else "", _PLACEHOLDER)]),
            multiline=True,
            key_bindings=_key_bindings(),
            history=FileHistory(str(self._history)),
            completer=_LineCompleter(self._client),
            complete_while_typing=False,
        )


class _LineCompleter(Completer):
    """Tab: commands and model names. The names are asked for once per session, at the first Tab."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._names: tuple[str, ...] | None = None

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        if self._names is None:
            self._names = self._ask_names()
        text = document.text_before_cursor
        return [Completion(line, start_position=-len(text)) for line in completions(text, self._names)]

    def _ask_names(self) -> tuple[str, ...]:
        try:
            return tuple(model.name for model in self._client.tags())
        except LocalllmError:  # completion is a convenience: without names it completes commands
            return ()


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline(copy_margin=False)

    @bindings.add("c-j")
    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings


def _parameter_lines(model_parameters: str | None, dialogue: Dialogue) -> list[str]:
    own = [f"  {name:<30} {value}" for name, value in dialogue.parameters.items()]
    return [
        "Model defined parameters:",
        *(f"  {line}" for line in (model_parameters or "none").splitlines()),
        *(["", "User defined parameters:", *own] if own else []),
    ]
