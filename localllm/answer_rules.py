"""What an answer is held to, as data: stages that follow one another.

Made by chat/constraint.py from a request and a model's notation, kept by engine/constrained.py. No token ids, but those
that a grammar names.

    Free   anything, until one of its marks is said, or its tokens are used up and its first mark is forced
    Held   what its grammar allows; when that is complete, the next stage

    thinking (Free) ──"</think>"──▶ answer (Free) ──"<tool_call>"──▶ call (Held) ──complete──▶ answer (Free) …
                                └──────────────▶ JSON (Held)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """A text that leads to the stage `next`."""

    text: str
    next: int


@dataclass(frozen=True, slots=True)
class Opening:
    """A regular expression over UTF-8 bytes: a stage whose text begins with it goes on as the stage `next`.

    With `is_part` that stage begins with the text of this one, but for blanks; else behind what matched.
    """

    pattern: bytes
    next: int
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """Any tokens, up to a mark. What would complete a `forbidden` text is not chosen.

    After `most_tokens` its first mark is said for the model. With `must_go_on` the turn cannot end here.
    """

    marks: tuple[Mark, ...] = ()
    openings: tuple[Opening, ...] = ()
    forbidden: tuple[str, ...] = ()
    most_tokens: int | None = None
    must_go_on: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A text of `grammar`, which is in llguidance's dialect of Lark. Then the stage `next`, or with None the turn ends.

    If the whole text is one of `marks`, that mark's stage follows instead. `own` is the grammar without those: a token
    that leads out of it is chosen only where it is the model's likeliest.
    """

    grammar: str
    next: int | None = None
    marks: tuple[Mark, ...] = ()
    own: str | None = None


Stage = Free | Held


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """The stages of one answer; it begins with the first, of which the text `begun` is there already.

    `held_tools` are those whose calls are held from where they begin.
    """

    stages: tuple[Stage, ...]
    begun: str = ""
    held_tools: frozenset[str] = frozenset()
