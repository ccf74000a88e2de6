"""Check the catalogue against the hub: each repository is there, with the quant and the licence its Modelfile names.

A line per short name on stdout. Exit code 1 when one is wrong: gone, without the quant, or under another licence than
its Modelfile says; 2 when the hub could not be asked about one, which says nothing about it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from localllm.errors import HubError, LocalllmError
from localllm.store.answers import SourceBusyError
from localllm.store.bundled import bundled_dir
from localllm.store.catalogue import Entry, entries
from localllm.store.hub import Hub
from localllm.store.hub_folder import hub_cache
from localllm.store.names import DEFAULT_TAG
from localllm.store.repository import Repository, choose

_TRIES = 3
_WAIT_SECONDS = 5.0
# What the hub writes for a licence that has no identifier: its name stands in a field that is not looked at.
_UNNAMED = "other"


def problems_of(entry: Entry, repository: Repository) -> Iterator[str]:
    """What the hub's repository says against an entry of the catalogue."""
    choice = "" if entry.source.tag == DEFAULT_TAG else entry.source.tag
    try:
        variant = choose(repository, choice).variant
    except LocalllmError as error:
        yield f"{error.message} ({error.hint})" if error.hint else error.message
    else:
        if choice and variant.quant.lower() != choice.lower():
            yield f"{choice} stands for {variant}: say that in its Modelfile"
    if repository.is_gated:
        yield "it asks for its terms to be accepted first: a short name should not"
    said = " ".join(entry.settings.licenses)
    there = repository.license or ""
    if there not in ("", _UNNAMED, said):
        yield f"its licence is {there}, and the Modelfile says {said or 'none'}"


def look_up(hub: Hub, repository_id: str) -> Repository:
    """The repository, with some patience. Raises LocalllmErrors."""
    for _ in range(_TRIES - 1):
        try:
            return hub.look_up(repository_id)
        except SourceBusyError as error:
            time.sleep(min(60.0, error.retry_after_seconds or _WAIT_SECONDS))
    return hub.look_up(repository_id)


def check(folder: Path, hub: Hub) -> int:
    """Check every entry; the exit code."""
    code = 0
    known: dict[str, Repository | LocalllmError] = {}
    for entry in entries(folder):
        repository_id = f"{entry.source.namespace}/{entry.source.model}"
        if repository_id not in known:
            try:
                known[repository_id] = look_up(hub, repository_id)
            except LocalllmError as error:
                known[repository_id] = error
        found = known[repository_id]
        if isinstance(found, LocalllmError):
            could_not_ask = isinstance(found, HubError)
            code = max(code, 2 if could_not_ask else 1)
            print(f"{'unknown' if could_not_ask else 'WRONG':<8} {entry.name}: {found.message}", flush=True)
            continue
        wrong = list(problems_of(entry, found))
        code = max(code, 1 if wrong else 0)
        for problem in wrong:
            print(f"{'WRONG':<8} {entry.name}: {entry.source}: {problem}", flush=True)
        if not wrong:
            print(f"{'ok':<8} {entry.name}: {entry.source}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[1]) if len(sys.argv) > 1 else bundled_dir(), Hub(hub_cache(os.environ, Path.home()))))
