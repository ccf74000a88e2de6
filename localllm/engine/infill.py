"""The prompt of a text with a gap, in the tokens by which a model was trained to fill it. Pure, but for tokenizing.

    BOS? [repository] NAME "\\n" ([file] NAME "\\n" TEXT)* [file] NAME "\\n"    only when files may be sent along
    [before] PREFIX [after] SUFFIX [middle]                                    and here the model goes on

The order, and the names of the repository and of the file with the gap, are llama-server's: its clients tell neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from localllm.engine.backend import InfillTokens
from localllm.generation import ContextFile

_REPOSITORY_LINE = "myproject\n"
_FILE_LINE = "filename\n"
_SUFFIX_SHARE = 4  # what does not fit keeps one part in so many for the text behind the gap

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class InfillPrompt:
    """A prompt, and how many tokens of the texts had no place in it."""

    tokens: list[int]
    dropped_tokens: int = 0


@dataclass(frozen=True, slots=True)
class InfillWriter:
    """Writes such prompts for one model. `begin` is what its vocabulary puts before every prompt."""

    marks: InfillTokens
    tokenize: Tokenize
    begin: Sequence[int]

    def write(self, prefix: str, suffix: str, files: Sequence[ContextFile] | None, room: int | None) -> InfillPrompt:
        """The prompt; None as files is the form without any. What does not fit `room` tokens is left out.

        First the oldest files, which come first, then the beginning of the prefix and the end of the suffix. Without
        `room` nothing is.
        """
        before, after = self.tokenize(prefix), self.tokenize(suffix)
        head, tail = ([], []) if files is None else self._frame()
        texts = [self._file(file) for file in files or ()]
        marks = [*self.begin, *head, *tail, self.marks.before, self.marks.after, self.marks.middle]
        whole = sum(map(len, (before, after, *texts)))
        if room is not None:
            before, after = _around_gap(before, after, room - len(marks))
            texts = _newest(texts, room - len(marks) - len(before) - len(after))
        tokens = [*self.begin, *head, *chain.from_iterable(texts), *tail]
        tokens += [self.marks.before, *before, self.marks.after, *after, self.marks.middle]
        return InfillPrompt(tokens, whole - sum(map(len, (before, after, *texts))))

    def _frame(self) -> tuple[list[int], list[int]]:
        """What stands before the files, and between them and the text with the gap."""
        marks = self.marks
        head = [] if marks.repository is None else [marks.repository, *self.tokenize(_REPOSITORY_LINE)]
        tail = [] if marks.file is None else [marks.file, *self.tokenize(_FILE_LINE)]
        return head, tail

    def _file(self, file: ContextFile) -> list[int]:
        if self.marks.file is None:  # a model without a mark for it gets one that can be read
            return self.tokenize(f"\n\n--- {file.name} ---\n\n{file.text}")
        return [self.marks.file, *self.tokenize(f"{file.name}\n"), *self.tokenize(file.text)]


def _around_gap(before: list[int], after: list[int], room: int) -> tuple[list[int], list[int]]:
    """The end of the one and the beginning of the other, together in `room`; the second gets what the first leaves."""
    room = max(room, 0)
    after = after[: max(room // _SUFFIX_SHARE, room - len(before))]
    return before[max(0, len(before) - (room - len(after))) :], after


def _newest(texts: list[list[int]], room: int) -> list[list[int]]:
    """As many whole texts from the end as fit."""
    kept: list[list[int]] = []
    for text in reversed(texts):
        room -= len(text)
        if room < 0:
            break
        kept.insert(0, text)
    return kept
