"""What stands before an answer, where a template never asks for one: it has no generation prompt, or not for us.

Every answer of the history begins the same way there, and so does the next one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

from localllm.chat.syntax import TAG
from localllm.generation import Message, ToolCall

_QUESTION = Message("user", "Zquestion")
_CALL = ToolCall("abcd12345", "zcalled", "{}")
_REPLIES = (
    Message("assistant", "Zanswer"),
    Message("assistant", "Another"),
    Message("assistant", "Zanswer", thinking="Thought"),
    Message("assistant", tool_calls=(_CALL,)),
)
_MOST_CHARACTERS = 128
_PIECE = re.compile(rf"{TAG}|\w+|.", re.DOTALL)
# What an opening may end with, besides a word before one of these: other marks may begin what differs.
_LAST = re.compile(rf"{TAG}|[\s:：]")
# Whether an answer begins with thinking is the model's to say.
_THINKING = re.compile(r"[<\[].*(?:think|thought|reason)", re.IGNORECASE)


def missing_prompt(show: Callable[[Sequence[Message], bool], str | None]) -> str:
    """What all answers begin with, where asking for one adds nothing. `show` is told whether an answer is asked for."""
    asked = show([_QUESTION], True)
    if asked is None or asked != show([_QUESTION], False):
        return ""
    shown = [show([_QUESTION, reply], False) for reply in _REPLIES]
    answers = [text[len(asked) :] for text in shown if text is not None and text.startswith(asked)]
    if len(answers) < 2 or not all(reply.content in text for reply, text in zip(_REPLIES[:2], answers, strict=False)):
        return ""
    begun = _shared(answers)
    return begun if begun.strip() and len(begun) <= _MOST_CHARACTERS else ""


def _shared(texts: Sequence[str]) -> str:
    """What the texts begin with, in whole tags, and without one that begins thinking."""
    rows = [_PIECE.findall(text) for text in texts]
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    pieces = list(itertools.takewhile(lambda piece: not _THINKING.match(piece), (column[0] for column in columns)))
    while pieces and not _may_end(pieces[-1], [row[len(pieces)] for row in rows if len(row) > len(pieces)]):
        pieces.pop()
    return "".join(pieces).rstrip(" ")


def _may_end(last: str, following: Sequence[str]) -> bool:
    """Whether a piece is whole, by itself or by what follows it in each text."""
    is_word = re.fullmatch(r"\w+", last) is not None and all(map(_LAST.fullmatch, following))
    return is_word or _LAST.fullmatch(last) is not None
