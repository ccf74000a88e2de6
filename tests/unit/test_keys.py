"""API keys: what a key is, what is kept of it, and the file it is kept in."""

from __future__ import annotations

import stat
from datetime import UTC, datetime

import pytest

from localllm.errors import BadRequestError, ConfigError
from localllm.keys import add_key, find_key, new_key, read_keys, remove_key

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_a_key_is_found_by_its_text_and_by_nothing_else():
    key, text = new_key("laptop", ("infer",), NOW)
    other, _ = new_key("other", ("infer",), NOW)
    keys = (other, key)
    assert key == find_key(text, keys)
    prefix, key_id, secret = text.split("_", 2)
    for wrong in (
        "", text[:-1], f"{text}x", f"other_{key_id}_{secret}", f"{prefix}_{other.id}_{secret}", f"{prefix}__{secret}",
        f"{prefix}_{key_id}_", f"{prefix}_{key_id}_{key.hash}", "\udc80_é_\udcff", "localllm__",
    ):  # fmt: skip
        assert find_key(wrong, keys) is None
    assert find_key(text, ()) is None


def test_two_keys_of_one_name_are_different_and_long_enough_not_to_be_guessed():
    texts = {new_key("a", ("infer",), NOW)[1] for _ in range(50)}
    assert 50 == len(texts)
    assert all(len(text.split("_", 2)[2]) == 43 for text in texts)  # 32 bytes in base64


def test_the_file_holds_no_secret_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "config" / "keys.json"
    key, text = new_key("laptop", ("infer", "manage"), NOW)
    add_key(path, key)
    assert (key,) == read_keys(path)
    assert text.split("_", 2)[2] not in path.read_text()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_a_name_is_taken_until_its_key_is_revoked_by_name_or_id(tmp_path):
    path = tmp_path / "keys.json"
    first, second = new_key("a", ("infer",), NOW)[0], new_key("b", ("infer",), NOW)[0]
    add_key(path, first)
    add_key(path, second)
    with pytest.raises(BadRequestError, match="there is a key named 'a'"):
        add_key(path, new_key("a", ("infer",), NOW)[0])
    assert first == remove_key(path, "a")
    assert second == remove_key(path, second.id)
    assert () == read_keys(path)
    with pytest.raises(BadRequestError, match="there is no key named 'a'"):
        remove_key(path, "a")
    with pytest.raises(BadRequestError, match="there is no key"):
        remove_key(tmp_path / "nowhere" / "keys.json", "a")


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 61, "a\x1b[31m"])
def test_a_name_is_short_and_printable(name):
    with pytest.raises(BadRequestError):
        new_key(name, ("infer",), NOW)


def test_a_damaged_file_is_an_error_and_no_file_is_no_keys(tmp_path):
    path = tmp_path / "keys.json"
    assert () == read_keys(path)
    path.write_text('{"keys": [{"id": 3}]}')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(path)
