"""Gemma 4's notation of a call, `call:name{key:<|"|>text<|"|>,other:[1,true]}`, as a call with JSON arguments.

A text stands between two quotes and has no escapes; keys have no quotes; everything else is as in JSON.
"""

from __future__ import annotations

import json
import re

from localllm.chat.tools import MAX_NESTING, Call, is_json

_HEAD = re.compile(r"call:([\w.\-/@]{1,256})")
_SCALAR = re.compile(r"[^,\]}{\[:]+")
_WORDS = {"None": "null", "True": "true", "False": "false"}


class _NotGemmaError(ValueError):
    """The text is not in this notation."""


def read_call(text: str, quote: str) -> Call | None:
    """The call that `text` writes, from "call:" to its last brace; None when it writes none."""
    head = _HEAD.match(text)
    if head is None:
        return None
    try:
        reader = _Reader(text, head.end(), quote)
        arguments = reader.mapping(0)
    except _NotGemmaError:
        return None
    return Call(head.group(1), arguments) if reader.at == len(text) else None


class _Reader:
    """Reads one value after another to JSON text."""

    def __init__(self, text: str, at: int, quote: str) -> None:
        self._text = text
        self._quote = quote
        self.at = at

    def mapping(self, depth: int) -> str:
        """`{key:value,…}`"""
        members: list[str] = []
        self._expect("{")
        while not self._take("}"):
            if members:
                self._expect(",")
            key = self._quoted() if self._at_quote() else json.dumps(self._until(":").strip(), ensure_ascii=False)
            self._expect(":")
            members.append(f"{key}: {self._value(depth + 1)}")
        return "{" + ", ".join(members) + "}"

    def _value(self, depth: int) -> str:
        if depth > MAX_NESTING // 2:
            raise _NotGemmaError
        if self._at_quote():
            return self._quoted()
        if self._text.startswith("{", self.at):
            return self.mapping(depth)
        if self._text.startswith("[", self.at):
            return self._sequence(depth)
        found = _SCALAR.match(self._text, self.at)
        word = found.group().strip() if found else ""
        word = _WORDS.get(word, word)
        if found is None or not is_json(word):
            raise _NotGemmaError
        self.at = found.end()
        return word

    def _sequence(self, depth: int) -> str:
        items: list[str] = []
        self._expect("[")
        while not self._take("]"):
            if items:
                self._expect(",")
            items.append(self._value(depth + 1))
        return "[" + ", ".join(items) + "]"

    def _at_quote(self) -> bool:
        return self._text.startswith(self._quote, self.at)

    def _quoted(self) -> str:
        self.at += len(self._quote)
        return json.dumps(self._until(self._quote, skip=True), ensure_ascii=False)

    def _until(self, end: str, *, skip: bool = False) -> str:
        found = self._text.find(end, self.at)
        if found < 0:
            raise _NotGemmaError
        text, self.at = self._text[self.at : found], found + (len(end) if skip else 0)
        return text

    def _take(self, text: str) -> bool:
        is_there = self._text.startswith(text, self.at)
        self.at += len(text) if is_there else 0
        return is_there

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise _NotGemmaError
