"""Reads the text files: facts.txt, small_talk.txt and unknown.txt, and expands their patterns.

A pattern is a sentence with choices: `(Show|List) my models`, `[how] pull a model`. `expand` draws one
sentence from it. Choices do not nest. Nothing here knows about chat formats or tokens.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
MACRO = re.compile(r"\[([a-z ]+)\]")
MACRO_LINE = re.compile(r"^\[([a-z ]+)\] = (.*)$")
REFUSAL = "I don't know. I only know about localllm."
REFUSAL_THOUGHT = "The user asks something that is not about localllm. I do not know it."
DEFAULT_MODEL = "llama3.2"

Macros = dict[str, list[str]]


@dataclass(slots=True)
class Fact:
    """One thing the model knows; `answer`, `thought` and the questions may hold {m} for a model's name."""

    name: str
    category: str
    answer: str
    thought: str
    patterns: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that was written by hand."""

    facts: list[Fact]
    small_talk: list[Fact]
    unknown: list[str]
    unknown_held_out: list[str]
    macros: Macros


def read_lines(path: Path) -> list[str]:
    """The lines that are neither empty nor comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]


def take_macros(lines: list[str], macros: Macros) -> list[str]:
    """Move the lines `[word] = a|b` into `macros`; return the other lines."""
    rest = []
    for line in lines:
        if match := MACRO_LINE.match(line):
            macros[match[1]] = match[2].split("|")
        else:
            rest.append(line)
    return rest


def read_facts(path: Path, macros: Macros) -> list[Fact]:
    facts: list[Fact] = []
    lines = iter(take_macros(read_lines(path), macros))
    for line in lines:
        if line.startswith("= "):
            name, category = line[2:].rstrip("]").split(" [")
            facts.append(Fact(name, category, answer=next(lines), thought=next(lines).removeprefix("~ ")))
        elif line.startswith("! "):
            facts[-1].held_out.append(line[2:])
        else:
            facts[-1].patterns.append(line)
    return facts


def read_corpus(folder: Path = FOLDER) -> Corpus:
    macros: Macros = {}
    facts = read_facts(folder / "facts.txt", macros)
    small_talk = read_facts(folder / "small_talk.txt", macros)
    unknown = take_macros(read_lines(folder / "unknown.txt"), macros)
    return Corpus(
        facts=facts,
        small_talk=small_talk,
        unknown=[line for line in unknown if not line.startswith("! ")],
        unknown_held_out=[line[2:] for line in unknown if line.startswith("! ")],
        macros=macros,
    )


def expand(pattern: str, macros: Macros, source: random.Random) -> str:
    """Draw one sentence from a pattern."""
    text = CHOICE.sub(lambda match: source.choice(match[1].split("|")), pattern)
    text = MACRO.sub(lambda match: source.choice(macros[match[1]]) if match[1] in macros else match[0], text)
    text = re.sub(r" +", " ", text).strip()
    text = re.sub(r" ([?!,]|\.(?![\w/]))", r"\1", text)  # but " .gguf" and " ./file" keep their space
    return text[:1].upper() + text[1:] if pattern[0] in "[(" and text[:1].islower() and " " in text else text


def variants(pattern: str, macros: Macros) -> int:
    """How many sentences a pattern stands for, so that rich patterns are drawn more often."""
    count = 1
    for match in CHOICE.finditer(pattern):
        count *= len(match[1].split("|"))
    for match in MACRO.finditer(pattern):
        count *= len(set(macros.get(match[1], [""])))
    return count


def plain(text: str) -> str:
    """A question without case and punctuation: two questions with equal plain forms count as the same."""
    return " ".join(re.findall(r"[a-z0-9/_.:{}-]+", text.lower().rstrip("?!. ")))
