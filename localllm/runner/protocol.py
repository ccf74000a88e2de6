"""Every message between the daemon and a runner, and their one encoding.

A frame is a 4-byte little-endian length and that many bytes of msgpack. Frames travel over a pipe pair of their own, so
that nothing a library prints on stdout or stderr can be taken for one. The runner speaks first:

    runner → daemon   Hello                          protocol and process id; anything else first is a mismatch
    daemon → runner   Load
    runner → daemon   LoadProgress* (Loaded | LoadFailed)
    daemon → runner   Generate | Embed | Cancel | Tokenize | Detokenize | Render | AskStats, in any order
    runner → daemon   RenderStarted, RenderEnded     around the model's own template, which may never return
                      Step                           the events of one engine step, for all its requests
                      Embedded | Tokenized | Detokenized | Rendered | Stats   the answer to the question with that id
                      Rejected                       the question with that id cannot be answered

The runner exits when its end of the pipe closes. A frame over MAX_FRAME_BYTES, or one that does not decode, is a bug or
an attack: the reader gives up on the other side.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from localllm.embedding import Embeddings, EmbedRequest
from localllm.generation import Event, Failed, GenerationRequest
from localllm.placement.cell_layout import LayoutChoice
from localllm.placement.layout import BufferBytes, Layout
from localllm.placement.shape import ContextShape

PROTOCOL_VERSION = 6
MAX_FRAME_BYTES = 256 * 2**20
_LENGTH = struct.Struct("<I")


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The runner is up."""

    protocol_version: int
    process_id: int


class LoadDraft(msgspec.Struct, frozen=True):
    """A draft model beside the model, in a context of one sequence. It guesses at most `tokens_most` tokens at once,
    each at least as probable as `least_probability`; None leaves either to the runner."""

    model_path: str
    layout: Layout
    shape: ContextShape
    threads: int
    tokens_most: int | None = None
    least_probability: float | None = None


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load this model with its `adapters`, laid out like this, with a context of this shape. Paths are absolute.

    `cells` says how the pool is laid out; None lets the runner choose by `kv_layout`. A shape without cells lets it
    take the model's trained context times `parallel`, within `pool_bytes_limit` bytes of KV memory. `template`
    replaces the file's own. `backend` "fake" runs the engine's fake model. For the purpose "embed" a file is an
    embedding model, which has no pool: its context is its longest input.
    """

    model_path: str
    layout: Layout
    shape: ContextShape
    parallel: int
    threads: int
    pool_bytes_limit: int = 0
    cells: LayoutChoice | None = None
    kv_layout: Literal["auto", "unified", "streams"] = "auto"
    stream_slowdown: float = 2.0
    template: str | None = None
    backend: str = "llama"
    purpose: Literal["generate", "embed"] = "generate"
    adapters: tuple[str, ...] = ()
    draft: LoadDraft | None = None


class LoadProgress(msgspec.Struct, frozen=True, tag=True):
    """The share of the weights that is loaded, 0 to 1."""

    fraction: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is ready. Bytes are what llama.cpp reports or allocates; tokens are cells of the KV pool.

    `buffers` are all of llama.cpp's, by device; empty where it cannot be asked. `resident_bytes` is the process.
    """

    trained_context_tokens: int
    pool_tokens: int
    parallel: int
    weight_bytes: int
    kv_bytes: int
    gpu_bytes: int
    layers: int
    gpu_layers: int
    load_seconds: float
    kv_layout: str = "unified"
    kv_layout_reason: str = ""
    buffers: tuple[BufferBytes, ...] = ()
    resident_bytes: int = 0


class Shortfall(msgspec.Struct, frozen=True):
    """An allocation that a device refused: how many bytes it was, and how many were free (None: nobody knows)."""

    device: str
    wanted_bytes: int
    free_bytes: int | None = None


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; the runner exits after it. `shortfall` when it was for want of memory."""

    error: Failed
    shortfall: Shortfall | None = None


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Start this request; its events come in Steps under this id until Finished or Failed."""

    id: int
    request: GenerationRequest


class Embed(msgspec.Struct, frozen=True, tag=True):
    """The vectors of these inputs; Cancel ends it."""

    id: int
    request: EmbedRequest


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Forget this request and free its cells; no event for it comes after the next step. Unknown ids are ignored."""

    id: int


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """Token ids of a text."""

    id: int
    text: str
    add_special: bool = False
    parse_special: bool = True


class Render(msgspec.Struct, frozen=True, tag=True):
    """The prompt text of a request, without generating."""

    id: int
    request: GenerationRequest


class Detokenize(msgspec.Struct, frozen=True, tag=True):
    """The bytes of these tokens; control tokens as their names."""

    id: int
    tokens: tuple[int, ...]


class AskStats(msgspec.Struct, frozen=True, tag=True):
    """What the engine holds now."""

    id: int


class RenderStarted(msgspec.Struct, frozen=True, tag=True):
    """The runner enters the model's template for this id; the daemon's render deadline starts."""

    id: int


class RenderEnded(msgspec.Struct, frozen=True, tag=True):
    """The template returned, or raised."""

    id: int


class Step(msgspec.Struct, frozen=True, tag=True):
    """All events of one engine step: (request id, event), in order."""

    events: tuple[tuple[int, Event], ...]


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The answer to Embed."""

    id: int
    embeddings: Embeddings


class Tokenized(msgspec.Struct, frozen=True, tag=True):
    """The answer to Tokenize."""

    id: int
    tokens: tuple[int, ...]


class Detokenized(msgspec.Struct, frozen=True, tag=True):
    """The answer to Detokenize: the bytes of each token, which may be part of a character."""

    id: int
    pieces: tuple[bytes, ...]


class Rendered(msgspec.Struct, frozen=True, tag=True):
    """The answer to Render: the prompt's text, and the tokens that the model would be given."""

    id: int
    prompt: str
    tokens: tuple[int, ...] = ()


class Stats(msgspec.Struct, frozen=True, tag=True):
    """The answer to AskStats: sequences and KV cells in use, steps and tokens so far, resident memory in bytes.

    `prompt_tokens` were computed, `cached_tokens` taken over from earlier requests, `drafted_tokens` guessed and
    `accepted_tokens` of them right.
    """

    id: int
    running: int
    waiting: int
    used_cells: int
    pool_tokens: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    resident_bytes: int
    cached_tokens: int = 0
    idle_prefixes: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """A question that cannot be answered."""

    id: int
    error: Failed


ToRunner = Load | Generate | Embed | Cancel | Tokenize | Detokenize | Render | AskStats
FromRunner = (
    Hello
    | LoadProgress
    | Loaded
    | LoadFailed
    | RenderStarted
    | RenderEnded
    | Step
    | Embedded
    | Tokenized
    | Detokenized
    | Rendered
    | Stats
    | Rejected
)

_encoder = msgspec.msgpack.Encoder()
_to_runner: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
_from_runner: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)


class FrameError(Exception):
    """The bytes of the other side are not a frame; the connection cannot go on."""


def encode(message: ToRunner | FromRunner) -> bytes:
    """One frame, length included."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """The body's length from a 4-byte header. Raises FrameError when it is over the limit."""
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over {MAX_FRAME_BYTES}")
    return int(length)


def decode_to_runner(body: bytes) -> ToRunner:
    """A message for the runner. Raises FrameError."""
    try:
        return _to_runner.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"not a message for a runner: {error}") from error


def decode_from_runner(body: bytes) -> FromRunner:
    """A message from the runner. Raises FrameError."""
    try:
        return _from_runner.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"not a message from a runner: {error}") from error
