"""What goes on from the tokens of an earlier exchange, and what these are: Ollama's `context`.

    context   the tokens of prompt and answer, without what ended the answer
    tail      what a template writes from the end of an answer to the beginning of the next: new turns, and all marks

So the prompt is what the template makes of the whole conversation, and all of it but the tail is in the prefix cache. A
template that does not show an earlier answer as it was leaves nothing to find the tail by: then it is what the template
makes of the new turns alone, as with Ollama.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localllm.engine.sequence import Finish, SequenceOutput
from localllm.errors import TemplateError
from localllm.generation import Message

_ANSWER = "Zanswer"  # a word no template contains
_BEFORE = (Message("user", "Zquestion"), Message("assistant", _ANSWER))


def tail(render: Callable[[tuple[Message, ...]], str], messages: tuple[Message, ...]) -> str:
    """The text behind an earlier answer, up to the next one. Raises TemplateError when `messages` are refused."""
    try:
        text = render((*_BEFORE, *messages))
    except TemplateError:  # a system turn in the middle, for one; alone the turns may be right
        return render(messages)
    _, found, after = text.partition(_ANSWER)  # the new turns may have that word, too
    return after if found else render(messages)


class Exchange:
    """The tokens of one prompt and its answer. `tokenize` is for an answer that is not all of its last token."""

    def __init__(self, prompt: Sequence[int], tokenize: Callable[[str], list[int]]) -> None:
        self._prompt = tuple(prompt)
        self._tokenize = tokenize
        self._answer: list[int] = []
        self._text: list[str] = []

    def note(self, output: SequenceOutput) -> None:
        """Remember what one step gave."""
        self._answer += output.tokens
        self._text.append(output.text)

    def context(self, finish: Finish) -> tuple[int, ...]:
        """What the next exchange goes on from."""
        if finish.stop_text is not None:  # the tokens went on past the end of the text
            return (*self._prompt, *self._tokenize("".join(self._text)))
        end = len(self._answer) - (finish.reason == "stop")  # the last is the one that ends a turn
        return (*self._prompt, *self._answer[:end])
