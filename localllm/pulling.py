"""A pull: what the process that downloads is asked, and the events that tell how it goes.

    daemon ── PullRequest ──▶ store.pull (a process of its own) ── PullEvent… ──▶ daemon ──▶ dialects ──▶ client

The last event of a download is Pulled or Failed. Rates and the time that is left are computed by whoever shows them.
"""

from __future__ import annotations

import msgspec

from localllm.generation import Failed


class PullRequest(msgspec.Struct, frozen=True):
    """Download from the repository "OWNER/REPO". `choice` is a quant, a file's name, or "" for the usual one.

    `limit_bytes_per_second` is 0 for as fast as it goes.
    """

    repository: str
    choice: str = ""
    limit_bytes_per_second: int = 0


class PullStatus(msgspec.Struct, frozen=True, tag="status"):
    """What is being done now, or what was decided, in words."""

    text: str


class PullProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far one file is. `digest` is "sha256:" and hex."""

    file: str
    digest: str
    total_bytes: int
    completed_bytes: int


class PulledFile(msgspec.Struct, frozen=True):
    """A whole, verified file. `path` is absolute, in the hub's cache."""

    path: str
    digest: str


class Pulled(msgspec.Struct, frozen=True, tag="pulled"):
    """The files of the model, a split model's parts in order. `repository` is spelled as the hub does."""

    repository: str
    commit: str
    files: tuple[PulledFile, ...]


PullEvent = PullStatus | PullProgress | Pulled | Failed
