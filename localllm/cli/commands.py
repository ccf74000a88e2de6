"""The verbs: one table with their help, so that `--help` and a wrong word import no command, and a verb only its own.

A command is a function with typer's annotations in its noun's module; `run_command` imports that module and lets
shortcut.py, or typer, bind the rest of the line to it.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

OK, USAGE_ERROR, INTERRUPTED = 0, 2, 130


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table: the word, where its function is, what it does."""

    verb: str
    module: str
    function: str
    help: str
    aliases: tuple[str, ...] = ()


COMMANDS: tuple[Command, ...] = (
    Command("run", "run", "run", "Ask a model, or chat with it"),
    Command("list", "models", "list_models", "List the models there are", ("ls",)),
    Command("show", "models", "show", "Show what is known about a model"),
    Command("template-check", "template_check", "template_check", "Check a chat template: what goes wrong with it"),
    Command("create", "create", "create", "Make a model of a Modelfile, a GGUF file or another model"),
    Command("cp", "create", "copy", "Give a model a second name"),
    Command("rm", "models", "remove", "Remove models"),
    Command("pull", "pull", "pull", "Download a model from Hugging Face or Ollama's registry"),
    Command("import", "adopt", "import_models", "Name the models that another tool holds, where they lie"),
    Command("search", "search", "search", "Find models to pull, here and on Hugging Face"),
    Command("du", "disk", "du", "Show what models take of the disk, and what no name uses"),
    Command("gc", "disk", "gc", "Remove what localllm downloaded and no name uses"),
    Command("plan", "plan", "plan", "Show how a model would lie here, before it is loaded or pulled"),
    Command("ps", "running", "ps", "List the models that are loaded"),
    Command("stop", "running", "stop", "Unload a model"),
    Command("doctor", "doctor", "doctor", "Check this machine, the engine on it and the daemon"),
    Command("key", "key", "key", "Make, list or revoke API keys"),
    Command("serve", "serve", "serve", "Run the daemon in the foreground", ("start",)),
)

# Verbs of Ollama's that people will try: why they are not there, and what to do.
_NO_COMMANDS = {
    "push": ("models are not uploaded", "`hf upload` puts a GGUF file into a repository of Hugging Face"),
    "signin": ("nothing here needs an account", "for repositories that ask for one: `hf auth login`"),
    "signout": ("nothing here needs an account", "`hf auth logout` forgets a token of Hugging Face's"),
}


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line without the program's name; return its exit code. Raises what the command raises."""
    word = arguments[0] if arguments else ""
    if word in ("--help", "-h", "help"):
        sys.stdout.write(overview())
        return OK
    command = find_command(word)
    if command is None:
        sys.stderr.write(overview() if not word else unknown_word_text(word))
        return USAGE_ERROR
    return _parse_and_call(command, list(arguments[1:]))


def find_command(word: str) -> Command | None:
    """The row of a verb or alias."""
    return next((command for command in COMMANDS if word == command.verb or word in command.aliases), None)


def overview() -> str:
    """What `localllm --help` prints."""
    words = ["|".join((command.verb, *command.aliases)) for command in COMMANDS]
    width = max(map(len, words))
    rows = [f"  {word:<{width}}  {command.help}" for word, command in zip(words, COMMANDS, strict=True)]
    return "\n".join(
        [
            "Run GGUF language models on your own machine",
            "",
            "Usage: localllm COMMAND [ARGUMENTS]",
            "       localllm --version",
            "",
            "Commands:",
            *rows,
            "",
            'Example: localllm run guide "How do I pull a model?"',
            "`localllm COMMAND --help` says more about one command",
            "",
        ]
    )


def unknown_word_text(word: str) -> str:
    """The error for a word that is no command, with the nearest one."""
    if word.startswith("-"):
        return f"Error: no such option: {word}\n\nhint: `localllm --help` lists the commands\n"
    if word in _NO_COMMANDS:
        return f"Error: there is no `localllm {word}`: {_NO_COMMANDS[word][0]}\n\nhint: {_NO_COMMANDS[word][1]}\n"
    near = difflib.get_close_matches(word, [command.verb for command in COMMANDS], n=1)
    hint = f"did you mean `localllm {near[0]}`?" if near else "`localllm --help` lists the commands"
    return f"Error: '{word}' is not a command\n\nhint: {hint}\n"


def _parse_and_call(command: Command, arguments: list[str]) -> int:
    # Imported here: typer takes 30 ms, which neither `--help` nor a wrong word should pay.
    import typer

    from localllm.cli.shortcut import bind

    module = importlib.import_module(f"localllm.cli.{command.module}")
    function = getattr(module, command.function)
    prepare = getattr(module, "prepare_arguments", None)
    words = prepare(arguments) if prepare else arguments
    try:
        bound = bind(function, words)
        if bound is None:
            _call_through_typer(command, function, words)
        else:
            function(**bound)
    except typer.Exit as end:  # --help ends so
        return end.exit_code
    except typer.Abort:
        return INTERRUPTED
    except _usage_error() as error:
        hint = f"`localllm {command.verb} --help` shows the usage"
        sys.stderr.write(f"Error: {_sentence(error)}\n\nhint: {hint}\n")
        return USAGE_ERROR
    return OK


def _call_through_typer(command: Command, function: Callable[..., None], words: list[str]) -> None:
    import typer  # imported here: see above

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=command.help)(function)
    parser = typer.main.get_command(app)
    # make_context and invoke rather than main: that one catches Ctrl-C and broken pipes in its own ways.
    with parser.make_context(f"localllm {command.verb}", words) as context:
        parser.invoke(context)


def _usage_error() -> type[Exception]:
    import typer

    # typer exports BadParameter but not its base, which stands for every wrong command line.
    base = typer.BadParameter.__mro__[1]
    assert issubclass(base, Exception)
    return base


def _sentence(error: Exception) -> str:
    message = str(getattr(error, "format_message", error.__str__)()).strip().removesuffix(".")
    return message[:1].lower() + message[1:]
