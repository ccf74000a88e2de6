"""How hard to think, in the words of one template: found by trying which it takes.

Clients say low, medium, high or max. Templates that know levels know other ones (Hy3 low and high, Kimi K3 low, high
and max, DeepSeek V4 max) and may refuse the rest, or read past them. What a template shows of a word that no template
knows tells which: it refuses, shows the word itself as gpt-oss's does, or shows what it shows without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

NAMES = ("reasoning_effort", "thinking_effort")
_UNKNOWN = "zlevel"
# The nearest first, and none that would ask for much more.
_NEAREST: Mapping[str, tuple[str, ...]] = {
    "minimal": ("minimal", "low"),
    "low": ("low", "minimal"),
    "medium": ("medium", "high"),
    "high": ("high",),
    "max": ("max", "xhigh", "high"),
}
_NONE = ("no_think", "none")
# The levels of a template that writes down whatever it is told, as gpt-oss's model card has them.
_PLAIN_WORDS = {"minimal": "low", "max": "high"}
Show = Callable[[Mapping[str, object]], str | None]


class Efforts:
    """The levels of one template. `show` renders a question with such variables, or returns None when it refuses."""

    def __init__(self, names: Collection[str], show: Show) -> None:
        self._name = next((name for name in NAMES if name in names), None)
        self._show = show
        self._words: dict[bool | str, str | None] = {}

    def variables(self, think: bool | str | None) -> dict[str, object]:
        """The variable that says how hard to think, if the template has a word for it."""
        if self._name is None or think is None or think is True:
            return {}
        if think not in self._words:
            self._words[think] = self._find(think)
        word = self._words[think]
        return {} if word is None else {self._name: word}

    def _find(self, think: bool | str) -> str | None:
        # A level concerns a model that thinks; DeepSeek V4 reads it only then.
        is_on = think is not False
        unknown = self._shown(_UNKNOWN, is_on)
        if unknown is not None and _UNKNOWN in unknown:
            return _PLAIN_WORDS.get(str(think), str(think)) if is_on else None
        candidates = _NEAREST.get(str(think), (str(think),)) if is_on else _NONE
        taken = ((word, self._shown(word, is_on)) for word in candidates)
        return next((word for word, shown in taken if shown is not None and self._is_known(word, shown, unknown)), None)

    def _is_known(self, word: str, shown: str, unknown: str | None) -> bool:
        """Whether a template knows the word: it shows something else for it, or the word without being told any."""
        if shown != unknown:
            return True
        says = re.compile(rf"\b{word}\b", re.IGNORECASE)
        others = [text for text in (self._shown(level, True) for level in _NEAREST) if text not in (None, unknown)]
        return says.search(shown) is not None and any(others) and not any(says.search(text or "") for text in others)

    def _shown(self, word: str, is_on: bool) -> str | None:
        assert self._name is not None
        return self._show({"enable_thinking": is_on, "thinking": is_on, self._name: word})
