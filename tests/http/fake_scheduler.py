"""A small working scheduler and store for the HTTP layer: leases a runner whose behaviour the prompt names.

    "echo a b"    answers "a", " b", one event per word, then Finished
    "wait"        one word, then nothing until it is cancelled
    "silent"      nothing until it is cancelled
    "held"        nothing until the test sets `release`, then Failed
    "fail"        Failed at once;  "fail later" one word before it
    "cut off"     one word, then the generator just ends;  "bug" raises what nobody foresaw
    "busy"        no lease: the queue is full;  "broken" no lease: it cannot be loaded
    "tool"        one tool call; "pieces" the same, its arguments piece by piece
    "prefill 20"  so many steps of progress with its prompt, 10 ms apart, then one word

The model "embed" turns a text into its length and a half, also as its score for a query; with "wait" among its inputs
it does nothing until it is cancelled, and it cuts "long". The model "slow" is never loaded; who asks for it is third.
Everything belongs to the server's event loop; tests read it from another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import BadRequestError, LoadError, ModelNotFoundError, QueueFullError
from localllm.generation import (
    ContentDelta,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Message,
    Options,
    PromptProgress,
    Timings,
    ToolCallDelta,
    Usage,
)
from localllm.gguf import ArrayInfo, Header, TensorInfo
from localllm.placement.budgets import room_of
from localllm.placement.choose import Room
from localllm.placement.devices import Device, Host, Machine
from localllm.placement.estimate import Estimate
from localllm.placement.plan import Plan
from localllm.placement.wishes import Wishes
from localllm.pulling import Pulled, PullRequest
from localllm.runner.protocol import Loaded, Stats
from localllm.scheduler.loop import ANYONE
from localllm.scheduler.state import Counts, QueuePlace, Requester, TicketId
from localllm.store.model import Facts, Model

PLACE = QueuePlace(TicketId(1), "slow:latest", 3, "someone", "batch", waited_seconds=1.5, eta_seconds=4.5)
BOS = 256
TOLD = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LOADED = Loaded(
    trained_context_tokens=2048,
    pool_tokens=1024,
    parallel=8,
    weight_bytes=1000,
    kv_bytes=500,
    gpu_bytes=300,
    layers=2,
    gpu_layers=1,
    load_seconds=0.5,
)
MODEL = Model(
    name="guide:latest",
    key="/models/guide.gguf",
    file=Path("/models/guide.gguf"),
    size_bytes=1000,
    digest="ab" * 32,
    modified_at=datetime(2026, 1, 1, tzinfo=UTC),
    options=Options(temperature=0.5, stop=('<"end">', "b")),
    system="Be brief.",
    template=None,
    license="MIT",
    messages=(Message("user", "before"), Message("assistant", "yes")),
    facts=Facts(
        architecture="llama",
        file_type="Q4_K_M",
        parameter_count=6_100_000,
        context_length=2048,
        embedding_length=256,
        chat_template="{{ messages }}",
    ),
    capabilities=("completion", "tools"),
    modelfile="FROM /models/guide.gguf\n",
)
HEADER = Header(
    version=3,
    metadata={
        "general.architecture": "llama",
        "general.name": "Guide",
        "llama.context_length": 2048,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.tokens": ArrayInfo("string", 4096),
        "some.short": (1, 2),
        "some.long": (1, 2, 3, 4, 5, 6),
    },
    tensors=(TensorInfo("token_embd.weight", (256, 4096), "Q4_K", 0, 589824),),
    file_size_bytes=1000,
    data_offset=256,
)


class FakeStore:
    """Three models: "guide" (tools), "slow" (never loads) and "embed" (embedding only); "guide" is bundled."""

    blobs_dir = Path("/models/blobs")

    def __init__(self) -> None:
        self.headers: dict[str, Header] = {}
        self.models = {
            "guide": replace(MODEL, is_bundled=True),
            "slow": replace(MODEL, name="slow:latest", key="/models/slow.gguf"),
            "embed": replace(MODEL, name="embed:latest", key="/models/embed.gguf", capabilities=("embedding",)),
        }

    def find(self, name: str) -> Model:
        model = self.models.get(name.removesuffix(":latest"))
        if model is None:
            raise ModelNotFoundError(name)
        return model

    def unchanged(self, name: str) -> Model | None:
        return None

    def list(self) -> tuple[Model, ...]:
        return tuple(self.models.values())

    def add_reranker(self, name: str) -> None:
        self.models[name] = replace(self.models["embed"], name=f"{name}:latest", key=f"/models/{name}.gguf")
        self.headers[name] = replace(HEADER, metadata={**HEADER.metadata, "llama.pooling_type": 4})

    def header(self, model: Model) -> Header:
        return self.headers.get(model.name.removesuffix(":latest"), HEADER)

    def loaded_header(self, model: Model) -> Header:
        return self.header(model)  # none has adapters

    def draft_header(self, model: Model) -> Header | None:
        return None

    def pull_request(self, name: str, quant: str = "") -> PullRequest | None:
        self.find(name)
        return None

    async def register(self, name: str, pulled: Pulled) -> None:
        raise AssertionError("what is there is not downloaded")

    def copy(self, source: str, destination: str) -> Model:
        self.models[destination] = copy = replace(self.find(source), name=f"{destination}:latest", is_bundled=False)
        return copy

    def delete(self, name: str) -> None:
        if self.find(name).is_bundled:
            raise BadRequestError(f"model '{name}' comes with localllm and cannot be deleted")
        del self.models[name.removesuffix(":latest")]


@dataclass(frozen=True)
class FakeLease:
    runner: FakeRunner
    loaded: Loaded = LOADED
    load_seconds: float = 0.25
    queue_seconds: float = 0.125
    fallback: str = ""


@dataclass(frozen=True)
class FakeRunning:
    model: Model
    loaded: Loaded | None = LOADED
    state: str = "ready"
    active: int = 1
    waiting: int = 2
    expires_at: datetime | None = TOLD
    plan: Plan | None = None
    measured: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FakeTurn(contextlib.AbstractAsyncContextManager[FakeLease]):
    opened: contextlib.AbstractAsyncContextManager[FakeLease]
    told: QueuePlace | None

    async def __aenter__(self) -> FakeLease:
        return await self.opened.__aenter__()

    async def __aexit__(self, *error) -> None:
        await self.opened.__aexit__(*error)

    def place(self) -> QueuePlace | None:
        return self.told


class FakeRunner:
    """Generates as the last message says; its tokens are bytes."""

    def __init__(self, scheduler: FakeScheduler) -> None:
        self._scheduler = scheduler

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        self._scheduler.requests.append(request)
        word, _, rest = text_of(request).partition(" ")
        try:
            async for event in self._events(word, rest):
                yield event
                await asyncio.sleep(0)
        except (GeneratorExit, asyncio.CancelledError):
            self._scheduler.cancelled += 1
            raise

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self._scheduler.embed_requests.append(request)
        if "wait" in request.inputs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self._scheduler.cancelled += 1
                raise
        vectors = tuple(array("d", (len(one), 0.5)).tobytes() for one in request.inputs)
        return Embeddings(vectors, sum(map(len, request.inputs)), truncated_inputs=request.inputs.count("long"))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> tuple[int, ...]:
        return (BOS,) * add_special + tuple(text.encode())

    async def detokenize(self, tokens: tuple[int, ...]) -> tuple[bytes, ...]:
        if max(tokens) > BOS:
            raise BadRequestError(f"there is no token {max(tokens)}: the model's are 0 to {BOS}")
        return tuple(b"<s>" if token == BOS else bytes([token]) for token in tokens)

    async def prompt(self, request: GenerationRequest) -> tuple[str, tuple[int, ...]]:
        text = "".join(f"<{message.role}>{message.content}" for message in request.messages or ())
        text = text or request.prompt or ""
        return text, await self.tokenize(text, add_special=True)

    async def prompt_tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        return (await self.prompt(request))[1]

    async def _events(self, word: str, rest: str) -> AsyncIterator[Event]:
        if word == "silent":
            await asyncio.Event().wait()
        if word == "held":
            await self._scheduler.release.wait()
        if word == "held" or (word, rest) == ("fail", ""):
            yield Failed("template_error", 400, "the template refused")
            return
        for step in range(int(rest) if word == "prefill" else 0):
            yield PromptProgress(step, int(rest), cached_tokens=1)
            await asyncio.sleep(0.01)
        yield PromptProgress(3, 3)
        for event in _deltas(word, rest):
            yield event
        if word == "wait":
            await asyncio.Event().wait()
        if word == "bug":
            raise RuntimeError("/secret/path")
        if word == "fail":
            yield Failed("runner_crashed", 500, "the model's process died", "the next request starts a new one")
        elif word != "cut":
            yield Finished("stop", Usage(3, 1, len(rest.split())), Timings(prefill_seconds=0.5, decode_seconds=1.0))


def _deltas(word: str, rest: str) -> list[Event]:
    if word == "tool":
        return [ToolCallDelta(0, "call_1", "add", '{"a": 1}')]
    if word == "pieces":
        return [ToolCallDelta(0, "call_1", "add"), *(ToolCallDelta(0, arguments=one) for one in ('{"', 'a": ', "1}"))]
    if word == "echo":
        return [ContentDelta(piece if index == 0 else f" {piece}") for index, piece in enumerate(rest.split(" "))]
    return [ContentDelta("once")]


@dataclass
class FakeScheduler:
    """Counts what happens to it. `leased` is how many leases are open now, `waiting` how many callers wait for one."""

    requests: list[GenerationRequest] = field(default_factory=list)
    embed_requests: list[EmbedRequest] = field(default_factory=list)
    keep_alives: list[float | None] = field(default_factory=list)
    requesters: list[Requester] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    cancelled: int = 0
    waiting: int = 0
    leased: int = 0
    active: int = 1  # what it says of "guide"
    counts: Counts = field(default_factory=lambda: Counts(loads=3, unloads=2, evictions=1, deaths=1))
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def lease(self, model: Model, keep_alive_seconds: float | None, who: Requester = ANYONE) -> FakeTurn:
        self.requesters.append(who)
        return FakeTurn(self._lease(model, keep_alive_seconds), PLACE if model.name == "slow:latest" else None)

    @contextlib.asynccontextmanager
    async def _lease(self, model: Model, keep_alive_seconds: float | None) -> AsyncIterator[FakeLease]:
        self.keep_alives.append(keep_alive_seconds)
        if model.name == "slow:latest":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        if keep_alive_seconds == 503:
            raise QueueFullError("guide", waiting=64, limit=64, retry_after_seconds=7)
        if keep_alive_seconds == 500:
            raise LoadError("the model could not be loaded")
        self.leased += 1
        try:
            yield FakeLease(FakeRunner(self))
        finally:
            self.leased -= 1

    async def unload(self, model: Model) -> bool:
        self.unloaded.append(model.name)
        return True

    def running(self) -> tuple[FakeRunning, ...]:
        slow = FakeRunning(FakeStore().find("slow"), loaded=None, state="loading", expires_at=None)
        return (FakeRunning(MODEL, active=self.active), slow)

    async def stats(self) -> dict[str, Stats]:
        return {"guide:latest": Stats(1, 1, 0, 700, 1024, 0, 0, 0, resident_bytes=5000)}

    def queue(self) -> tuple[QueuePlace, ...]:
        return (PLACE,)


def text_of(request: GenerationRequest) -> str:
    """The prompt, or the last message."""
    if request.prompt_tokens is not None:
        return bytes(token for token in request.prompt_tokens if token != BOS).decode()
    return request.prompt or (request.messages[-1].content if request.messages else "")


class FakePlanner:
    """A machine with one GPU of 8 GiB and a host of 16."""

    async def room(self, estimated: Estimate, wishes: Wishes, machine: Machine | None = None) -> Room:
        gib = 2**30
        host = Host(4, 16 * gib, 16 * gib)
        gpu = Device("gpu", "CUDA0", "a card", total_bytes=8 * gib, free_bytes=8 * gib, backend="CUDA")
        cpu = Device("cpu", "CPU", total_bytes=host.total_bytes, free_bytes=host.available_bytes)
        return room_of(machine or Machine((gpu, cpu), host), estimated.vocabulary, wishes)
