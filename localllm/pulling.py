"""A pull: what the process that downloads is asked, and the events that tell how it goes.

    daemon ── PullRequest ──▶ store.pull (a process of its own) ── PullEvent… ──▶ daemon ──▶ dialects ──▶ client

The last event of a download is Pulled or Failed. Rates and the time that is left are computed by whoever shows them.
"""

from __future__ import annotations

import msgspec

from localllm.generation import Failed, Message, Options

AUTO_QUANT = "auto"


class RegistryPlace(msgspec.Struct, frozen=True):
    """Ollama's registry: its URL, and the folder its files belong in."""

    url: str
    blobs_dir: str


class PullRequest(msgspec.Struct, frozen=True):
    """Download from the hub's repository "OWNER/REPO", or from `registry` the model "NAMESPACE/MODEL".

    `choice` is on the hub a quant, a file's name or "" for the usual one (the daemon puts one in the place of
    AUTO_QUANT); in the registry a tag. `limit_bytes_per_second` is 0 for as fast as it goes.
    """

    repository: str
    choice: str = ""
    limit_bytes_per_second: int = 0
    registry: RegistryPlace | None = None


class PullStatus(msgspec.Struct, frozen=True, tag="status"):
    """What is being done now, or what was decided, in words."""

    text: str


LOOKING = PullStatus("pulling manifest")


class PullProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far one file is. `digest` is "sha256:" and hex."""

    file: str
    digest: str
    total_bytes: int
    completed_bytes: int


class PulledFile(msgspec.Struct, frozen=True):
    """A whole, verified file. `path` is absolute, in the hub's cache or among the blobs."""

    path: str
    digest: str


class PulledSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a registry says of a model besides its files."""

    options: Options = Options()
    template: str | None = None
    system: str | None = None
    license: str | None = None
    messages: tuple[Message, ...] = ()


class Pulled(msgspec.Struct, frozen=True, tag="pulled"):
    """The files of the model, a split model's parts in order. `repository` is spelled as the hub does.

    `projector` is what turns images into the model's input, for a model that can see. `settings` and `adapters`, which
    change the weights, come from a registry; the hub has none.
    """

    repository: str
    commit: str
    files: tuple[PulledFile, ...]
    projector: PulledFile | None = None
    settings: PulledSettings | None = None
    adapters: tuple[PulledFile, ...] = ()


PullEvent = PullStatus | PullProgress | Pulled | Failed
