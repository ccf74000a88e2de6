"""What a handler may use: settings, models, loaded models, clocks, and the account of the requests that run.

The protocols are the seams the HTTP layer needs; the real ones are store.Store, scheduler.Scheduler and its leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, ParamSpec, Protocol, TypeVar

from localllm.config import Settings
from localllm.creating import ConverterRelease, Creation
from localllm.embedding import Embeddings, EmbedRequest
from localllm.generation import Event, GenerationRequest
from localllm.gguf import Header, TensorInfo
from localllm.gguf_adapters import AdapterFacts
from localllm.modelfile import Modelfile
from localllm.placement.choose import Room
from localllm.placement.devices import Machine
from localllm.placement.estimate import Estimate
from localllm.placement.plan import Plan
from localllm.placement.wishes import Wishes
from localllm.pulling import Pulled, PullRequest
from localllm.runner.protocol import Loaded, Stats
from localllm.scheduler.state import Counts, QueuePlace, Requester
from localllm.server.activity import Activity
from localllm.server.energy import EnergyMeters
from localllm.server.metrics import Metrics
from localllm.server.pulls import Pulls
from localllm.server.responses_store import ResponseStore
from localllm.server.traces import Traces
from localllm.store.converter import RELEASE
from localllm.store.manifest import Manifest
from localllm.store.model import Model

P = ParamSpec("P")
T = TypeVar("T")


class ModelStore(Protocol):
    """Models by name. Methods touch the disk: call them through Services.in_store, but for `unchanged`."""

    def find(self, name: str) -> Model: ...
    def unchanged(self, name: str) -> Model | None: ...
    def list(self) -> tuple[Model, ...]: ...
    def delete(self, name: str) -> None: ...
    def header(self, model: Model) -> Header: ...
    def loaded_header(self, model: Model) -> Header: ...
    def draft_header(self, model: Model) -> Header | None: ...
    def adapters(self, model: Model) -> Sequence[tuple[Path, AdapterFacts]]: ...
    def pull_request(self, name: str, quant: str = "") -> PullRequest | None: ...
    def refuse_unwritable(self, name: str) -> None: ...
    def register_pulled(self, name: str, pulled: Pulled) -> Model: ...
    def base(self, creation: Creation) -> Manifest: ...
    def create(self, base: Manifest, settings: Modelfile) -> Model: ...
    def with_adapters(self, base: Manifest, files: Sequence[str]) -> tuple[Manifest, tuple[str, ...]]: ...
    def with_draft(self, base: Manifest, file: str) -> Manifest: ...
    def tensors(self, base: Manifest) -> Sequence[TensorInfo]: ...
    def with_file(self, base: Manifest, file: Path) -> Manifest: ...
    def drop_blobs(self, files: Sequence[str]) -> None: ...
    def copy(self, source: str, destination: str) -> Model: ...
    @property
    def blobs_dir(self) -> Path: ...


class Runner(Protocol):
    """What computes, and answers questions about prompts and tokens.

    The generator's last event is Finished or Failed; closing it cancels the request.
    """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]: ...
    async def embed(self, request: EmbedRequest) -> Embeddings: ...
    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> Sequence[int]: ...
    async def detokenize(self, tokens: tuple[int, ...]) -> Sequence[bytes]: ...
    async def prompt_tokens(self, request: GenerationRequest) -> Sequence[int]: ...
    async def prompt(self, request: GenerationRequest) -> tuple[str, Sequence[int]]: ...


class Lease(Protocol):
    """The right to use a loaded model's runner."""

    @property
    def runner(self) -> Runner: ...
    @property
    def loaded(self) -> Loaded: ...
    @property
    def load_seconds(self) -> float: ...
    @property
    def queue_seconds(self) -> float: ...
    @property
    def fallback(self) -> str: ...


class Turn(Protocol):
    """One request's way to a lease. Entering it waits in the queue; `place` is None before and after the waiting."""

    async def __aenter__(self) -> Lease: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def place(self) -> QueuePlace | None: ...


class RunningModel(Protocol):
    """A model that takes up memory; `expires_at` None is never."""

    @property
    def model(self) -> Model: ...
    @property
    def loaded(self) -> Loaded | None: ...
    @property
    def state(self) -> Literal["loading", "ready", "stopping"]: ...
    @property
    def active(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def plan(self) -> Plan | None: ...
    @property
    def measured(self) -> Mapping[str, int]: ...


class ModelScheduler(Protocol):
    """Loaded models and those who wait for them."""

    def lease(self, model: Model, keep_alive_seconds: float | None, who: Requester = ...) -> Turn: ...
    async def unload(self, model: Model) -> bool: ...
    def running(self) -> tuple[RunningModel, ...]: ...
    def queue(self) -> tuple[QueuePlace, ...]: ...
    async def stats(self) -> dict[str, Stats]: ...
    @property
    def counts(self) -> Counts: ...


class Planning(Protocol):
    """What a model may take here, or on another machine."""

    async def room(self, estimated: Estimate, wishes: Wishes, machine: Machine | None = None) -> Room: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` in seconds, for spans; `time_ns` in nanoseconds since the epoch, for timestamps."""

    monotonic: Callable[[], float]
    time_ns: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Services:
    """One daemon's parts. `store_thread` has one worker: it alone touches the store. `new_id` makes unique text, and
    `converter` GGUFs of safetensors.

    `early_headers_seconds`: how long a stream's headers may wait for its first event; `ping_seconds`: how long it may
    be silent, in a dialect that has pings.
    """

    settings: Settings
    store: ModelStore
    scheduler: ModelScheduler
    planner: Planning
    store_thread: Executor
    clock: Clock
    new_id: Callable[[], str]
    activity: Activity
    pulls: Pulls
    metrics: Metrics = field(default_factory=Metrics)
    energy: EnergyMeters = field(default_factory=EnergyMeters)
    traces: Traces | None = None
    responses: ResponseStore = field(default_factory=ResponseStore)
    early_headers_seconds: float = 1.0
    ping_seconds: float = 10.0
    converter: ConverterRelease = RELEASE

    async def find(self, name: str) -> Model:
        """The model of that name; at once if its files are those that were found last. Raises as the store's does."""
        known = self.store.unchanged(name)
        return await self.in_store(self.store.find, name) if known is None else known

    async def in_store(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Run a method of the store away from the event loop, after those that were asked for before."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.store_thread, lambda: work(*arguments, **keywords))
