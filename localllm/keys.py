"""API keys: made once, shown once, kept as hashes in one file that only its owner can read.

    localllm_ID_SECRET          what a client sends; SECRET is 256 random bits
    <config folder>/keys.json   name, id, scopes, salt and keyed hash of each key; replaced whole

A secret of 256 bits cannot be guessed from a fast hash, so that checking a key costs a request nothing. What is kept
can be compared with a key and not turned into one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec
from filelock import FileLock

from localllm.errors import BadRequestError, ConfigError

Scope = Literal["infer", "manage"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEYS_FILE = "keys.json"
_PREFIX = "localllm"
_LONGEST_NAME = 60


class Key(msgspec.Struct, frozen=True):
    """What is known of one key. `salt` and `hash` are hex; `infer` is to ask models, `manage` to change which exist."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    salt: str
    hash: str


class _File(msgspec.Struct):
    keys: tuple[Key, ...] = ()
    version: int = 1


# Compared with when no key has the id that was sent, so that the answer takes as long.
_NOBODY = Key("", "", (), datetime.min, "00" * 16, "00" * 32)


def new_key(name: str, scopes: Iterable[Scope], now: datetime) -> tuple[Key, str]:
    """A key and the text that a client sends, which nothing keeps. Raises BadRequestError for a name that is none."""
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise BadRequestError(f"a key's name is 1 to {_LONGEST_NAME} printable characters, not {name!r}")
    key_id, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_hex(16)
    key = Key(key_id, name, tuple(scopes), now, salt, _hash(secret, salt))
    return key, f"{_PREFIX}_{key_id}_{secret}"


def find_key(text: str, keys: Iterable[Key]) -> Key | None:
    """The key that `text` is, or None; a wrong one takes as long as a right one."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    key = next((key for key in keys if key.id == key_id), _NOBODY)
    is_right = hmac.compare_digest(_hash(secret, key.salt), key.hash)
    return key if is_right and key is not _NOBODY and prefix == _PREFIX else None


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file; none when it is not there. Raises ConfigError when it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"the file of API keys cannot be read: {error}", hint=f"mend or remove {path}, then make the keys anew"
        ) from error


def add_key(path: Path, key: Key) -> None:
    """Keep one more. Raises BadRequestError when the name is taken."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        keys = read_keys(path)
        if any(other.name == key.name for other in keys):
            raise BadRequestError(f"there is a key named '{key.name}'", hint=f"localllm key revoke {key.name}")
        _write(path, (*keys, key))


def remove_key(path: Path, name: str) -> Key:
    """Forget the key of that name or id; whoever has it is refused from now on. Raises BadRequestError."""
    if not path.parent.is_dir():
        raise _no_such_key(name)
    with FileLock(f"{path}.lock"):
        keys = read_keys(path)
        gone = next((key for key in keys if name in (key.name, key.id)), None)
        if gone is None:
            raise _no_such_key(name)
        _write(path, tuple(key for key in keys if key is not gone))
        return gone


def _no_such_key(name: str) -> BadRequestError:
    return BadRequestError(f"there is no key named '{name}'", hint="`localllm key list` shows them")


def _hash(secret: str, salt: str) -> str:
    data = secret.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, key=bytes.fromhex(salt), digest_size=32).hexdigest()


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp: 0600 from the start
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
