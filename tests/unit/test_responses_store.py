"""The store of responses: whose they are, how long, how much, and what goes on from what."""

from __future__ import annotations

import pytest

from localllm.dialects.openai_responses_items import StoredItem
from localllm.errors import PreviousResponseError, ResponseNotFoundError
from localllm.server.responses_store import Kept, ResponseStore


def item(name: str, size: int = 10) -> StoredItem:
    return StoredItem(name, name.encode().ljust(size))


def begun(store: ResponseStore, name: str, owner: str = "ann", previous: Kept | None = None, size: int = 10) -> Kept:
    kept = Kept(name, owner, previous, (item(f"{name}-in", size),), b"in progress", lambda: None, 0.0)
    store.begin(kept)
    return kept


def kept_in(store: ResponseStore, name: str, now: float = 0.0, **fields) -> Kept:
    kept = begun(store, name, **fields)
    store.end(kept, b"done", (item(f"{name}-out"),), now)
    return kept


def names(items: tuple[StoredItem, ...]) -> list[str]:
    return [one.id for one in items]


def is_there(store: ResponseStore, name: str, owner: str = "ann", now: float = 0.0) -> bool:
    try:
        store.find(name, owner, now)
    except ResponseNotFoundError:
        return False
    return True


def test_a_response_is_there_while_it_is_made_and_afterwards():
    store = ResponseStore()
    kept = begun(store, "a")
    assert (b"in progress", True) == (store.find("a", "ann", 0).body, kept.in_progress)
    store.end(kept, b"done", (item("a-out"),), 1.0)
    assert (b"done", False) == (store.find("a", "ann", 1).body, kept.in_progress)


def test_another_owners_response_is_as_unknown_as_one_that_never_was():
    store = ResponseStore()
    kept_in(store, "a")
    for name, owner in (("a", "bob"), ("a", ""), ("zzz", "ann")):
        with pytest.raises(ResponseNotFoundError, match=f"'{name}' not found"):
            store.find(name, owner, 0)
    assert (b"a-out     ", None) == (store.item("a-out", "ann"), store.item("a-out", "bob"))


def test_a_conversation_goes_through_all_earlier_responses():
    store = ResponseStore()
    one = kept_in(store, "a")
    two = kept_in(store, "b", previous=one)
    three = kept_in(store, "c", previous=two)
    assert ["a-in", "a-out", "b-in", "b-out", "c-in"] == names(three.context())
    assert "c-out" == names(three.conversation())[-1]


def test_a_deleted_response_is_gone_for_itself_and_stays_in_what_went_on_from_it():
    store = ResponseStore()
    one = kept_in(store, "a")
    two = kept_in(store, "b", previous=one)
    store.drop(one)
    assert (False, True) == (is_there(store, "a"), is_there(store, "b"))
    assert ["a-in", "a-out", "b-in"] == names(two.context())
    assert store.item("a-out", "ann") is None
    with pytest.raises(PreviousResponseError, match="'a' not found"):
        store.previous("a", "ann", 0)


def test_what_is_gone_takes_no_room():
    store = ResponseStore()
    one = kept_in(store, "a")
    two = kept_in(store, "b", previous=one)
    three = kept_in(store, "c", previous=one)
    for kept in (one, two, three):
        assert store.size_bytes > 0
        store.drop(kept)
    assert (0, 0) == (store.size_bytes, len(store))


def test_a_response_that_is_too_old_is_gone():
    store = ResponseStore(keep_seconds=10)
    kept_in(store, "a", now=0)
    kept_in(store, "b", now=5)
    assert (True, True) == (is_there(store, "a", now=9.9), is_there(store, "b", now=9.9))
    assert (False, True) == (is_there(store, "a", now=10), is_there(store, "b", now=10))
    assert 1 == len(store)


def test_the_oldest_make_room_for_new_ones():
    store = ResponseStore(most_bytes=10_000)
    for index in range(20):
        kept_in(store, f"r{index}", now=index, size=500)
        assert store.size_bytes <= 10_000
    assert (False, True) == (is_there(store, "r0"), is_there(store, "r19"))
    assert len(store) > 3


def test_a_conversation_counts_once_however_many_go_on_from_it():
    store = ResponseStore(most_bytes=100_000)
    last = kept_in(store, "r0", size=1000)
    for index in range(1, 30):
        last = kept_in(store, f"r{index}", previous=last, size=1000)
    assert 30 == len(store)
    assert 30 < len(last.context())


def test_a_response_too_large_to_keep_is_not_kept_and_leaves_nothing_behind():
    store = ResponseStore(most_bytes=5_000)
    kept_in(store, "small")
    kept_in(store, "large", size=6_000)
    assert not is_there(store, "large")
    assert store.size_bytes <= 5_000


def test_a_response_in_progress_is_never_made_room_of():
    store = ResponseStore(keep_seconds=10, most_bytes=3_000)
    running = begun(store, "running", size=2_900)
    kept_in(store, "other", now=100)
    assert is_there(store, "running", now=200)
    store.end(running, b"done", (), 200)
    assert not is_there(store, "other", now=200)


def test_nobody_goes_on_from_a_response_that_is_in_progress():
    store = ResponseStore()
    begun(store, "a")
    with pytest.raises(PreviousResponseError, match="still in progress"):
        store.previous("a", "ann", 0)


def test_a_response_that_was_deleted_while_it_was_made_is_not_kept():
    store = ResponseStore()
    kept = begun(store, "a")
    store.drop(kept)
    store.end(kept, b"done", (item("a-out"),), 1.0)
    assert (False, 0, None) == (is_there(store, "a"), store.size_bytes, store.item("a-out", "ann"))


def test_an_item_that_was_sent_again_is_still_there_when_the_earlier_response_is_not():
    store = ResponseStore()
    one = kept_in(store, "a")
    two = Kept("b", "ann", None, (item("a-out"),), b"", lambda: None, 0.0)
    store.begin(two)
    store.end(two, b"done", (), 1.0)
    store.drop(one)
    assert store.item("a-out", "ann") is not None


def test_what_is_gone_when_another_begins_to_go_on_from_it_is_counted_until_that_one_is_gone():
    store = ResponseStore()
    first = kept_in(store, "a")
    second = kept_in(store, "b", previous=first)
    both = store.size_bytes
    store.drop(second)
    store.drop(first)
    assert 0 == store.size_bytes
    third = begun(store, "c", previous=second)
    assert both + third.size_bytes == store.size_bytes
    store.drop(third)
    assert 0 == store.size_bytes


@pytest.mark.parametrize(("keep_seconds", "most_bytes"), [(0, 1000), (10, 0)])
def test_a_store_without_time_or_room_keeps_nothing(keep_seconds, most_bytes):
    assert not ResponseStore(keep_seconds, most_bytes).keeps
    assert ResponseStore().keeps
