"""The responses that can be asked for again, gone on from or deleted: in memory, bounded, each its owner's only.

    begin() ─▶ in progress ──end()──▶ kept ──▶ delete(), too old, or no room ─▶ gone
                    └──drop()───▶ gone

A response keeps its own input and output; what it goes on from it shares with the earlier response, so that a long
conversation is in memory once. An earlier response that is gone stays in memory as long as a later one goes on from it:
that counts. The oldest go first. Nothing is on disk: a daemon that ends forgets.

Belongs to the daemon's event loop. `now` is in seconds, of any clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from localllm.dialects.openai_responses_items import StoredItem
from localllm.errors import PreviousResponseError, ResponseNotFoundError

KEEP_SECONDS = 24 * 3600.0
MOST_BYTES = 32 * 2**20
_OVERHEAD_BYTES = 1000  # of a response's and an item's objects, roughly
_ITEM_OVERHEAD_BYTES = 200


@dataclass(slots=True)
class Kept:
    """One response. `cancel` ends it while it is in progress; `followers` are the later ones that go on from it."""

    id: str
    owner: str
    previous: Kept | None
    input: tuple[StoredItem, ...]
    body: bytes
    cancel: Callable[[], None] | None
    kept_at: float
    output: tuple[StoredItem, ...] = ()
    followers: int = 0
    is_listed: bool = True
    size_bytes: int = field(default=0)

    @property
    def in_progress(self) -> bool:
        """Whether its answer still comes."""
        return self.cancel is not None

    def context(self) -> tuple[StoredItem, ...]:
        """What the model was given: the conversation it went on from, and its own input."""
        earlier: list[Kept] = []
        kept = self.previous
        while kept is not None:
            earlier.append(kept)
            kept = kept.previous
        before = [item for one in reversed(earlier) for item in (*one.input, *one.output)]
        return (*before, *self.input)

    def conversation(self) -> tuple[StoredItem, ...]:
        """What the next one goes on from."""
        return (*self.context(), *self.output)


class ResponseStore:
    """Responses of at most `most_bytes` together, each for `keep_seconds` after its end; 0 of either keeps none."""

    def __init__(self, keep_seconds: float = KEEP_SECONDS, most_bytes: int = MOST_BYTES) -> None:
        self._keep_seconds = keep_seconds
        self._most_bytes = most_bytes
        self._kept: dict[str, Kept] = {}  # from the one that ended first
        self._items: dict[tuple[str, str], StoredItem] = {}
        self.size_bytes = 0

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._keep_seconds > 0 and self._most_bytes > 0

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, kept: Kept) -> None:
        """Know of a response that is in progress."""
        self._kept[kept.id] = kept
        self._retain(kept.previous)
        self._count(kept)

    def end(self, kept: Kept, body: bytes, output: tuple[StoredItem, ...], now: float) -> None:
        """Keep a response that is over. One that was deleted meanwhile, or is too large, is not kept."""
        kept.cancel = None
        if self._kept.pop(kept.id, None) is None:
            return
        kept.body, kept.output, kept.kept_at = body, output, now
        self._kept[kept.id] = kept  # the newest of those that are over
        for item in (*kept.input, *output):
            self._items[kept.owner, item.id] = item
        self._count(kept)
        self._make_room(now)

    def drop(self, kept: Kept) -> None:
        """Forget a response."""
        kept.cancel = None
        if self._kept.pop(kept.id, None) is not None:
            kept.is_listed = False
            for item in (*kept.input, *kept.output):
                if self._items.get((kept.owner, item.id)) is item:  # a later response may have sent the same again
                    del self._items[kept.owner, item.id]
            self._release(kept)

    def find(self, response_id: str, owner: str, now: float) -> Kept:
        """A response of that owner. Raises ResponseNotFoundError, also when it is another's."""
        self._make_room(now)
        kept = self._kept.get(response_id)
        if kept is None or kept.owner != owner:
            raise ResponseNotFoundError(response_id)
        return kept

    def previous(self, response_id: str, owner: str, now: float) -> Kept:
        """A response to go on from. Raises PreviousResponseError."""
        try:
            kept = self.find(response_id, owner, now)
        except ResponseNotFoundError:
            raise PreviousResponseError(
                f"Previous response with id '{response_id}' not found.",
                hint="responses are kept in memory and for a time only, and not at all with `store`: false;"
                " send the whole conversation in input",
            ) from None
        if kept.in_progress:
            raise PreviousResponseError(f"Previous response with id '{response_id}' is still in progress.")
        return kept

    def item(self, item_id: str, owner: str) -> bytes | None:
        """An item of a kept response."""
        item = self._items.get((owner, item_id))
        return item.text if item is not None else None

    def _count(self, kept: Kept) -> None:
        items = (*kept.input, *kept.output)
        size = sum(len(item.text) + _ITEM_OVERHEAD_BYTES for item in items) + len(kept.body) + _OVERHEAD_BYTES
        self.size_bytes += size - kept.size_bytes
        kept.size_bytes = size

    def _retain(self, kept: Kept | None) -> None:
        """Hold the room of what is gone on from. What was forgotten since it was found takes room again."""
        while kept is not None:
            kept.followers += 1
            if kept.is_listed or kept.followers > 1:
                return
            self.size_bytes += kept.size_bytes
            kept = kept.previous

    def _release(self, kept: Kept) -> None:
        """Give back the room of a response that is gone and has no followers, and of what only it went on from."""
        last: Kept | None = kept
        while last is not None and not last.is_listed and last.followers == 0:
            self.size_bytes -= last.size_bytes
            last = last.previous
            if last is not None:
                last.followers -= 1

    def _make_room(self, now: float) -> None:
        for kept in list(self._kept.values()):
            is_old = now - kept.kept_at >= self._keep_seconds
            if not kept.in_progress and (is_old or self.size_bytes > self._most_bytes):
                self.drop(kept)
            elif not is_old and self.size_bytes <= self._most_bytes:
                return
