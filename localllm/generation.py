"""The one request and the one event vocabulary: what every dialect decodes to and every engine answers with.

Frozen msgspec structs, so that the same objects cross the runner's pipe without a second set of wire types. A new
dialect adds nothing here unless it can ask for something no other can.

Option values have three sources, in this order: the client's request, the Modelfile, the GGUF's own
`general.sampling.*`. `None` means "not said"; `merge_options` lays the sources over each other and `sampling_from`
fills what nobody said with Ollama's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from localllm.option_values import read_option

Role = Literal["system", "user", "assistant", "tool"]
MOST_LOGPROBS = 20  # the most that any dialect may ask for
Priority = Literal["interactive", "agent", "batch"]
FinishReason = Literal["stop", "length", "tool_calls", "load", "unload"]


class ToolCall(msgspec.Struct, frozen=True):
    """A call the model made. `arguments` is JSON text of an object, in the order the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: Role
    content: str = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function the model may call. `definition` is the client's JSON text, passed to the template untouched.

    The arguments of a `strict` one are held to its schema or the request is refused. One that is not listed is not
    given to the template: the conversation shows it.
    """

    name: str
    definition: str
    strict: bool = False
    is_listed: bool = True
    input_grammar: str | None = None  # in Lark, for the text that is its only argument


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the model may call a tool, may not, or must; only those in `names`, or any if there are none.

    Without `parallel` it makes one call at most.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()
    parallel: bool = True


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything a client or a Modelfile may set, by Ollama's name, or else llama.cpp's; None is "not said"."""

    # while generating
    num_keep: int | None = None
    seed: int | None = None
    num_predict: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    temperature: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    top_n_sigma: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    stop: tuple[str, ...] | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None
    num_ctx: int | None = None
    thinking_budget: int | None = None
    # while loading
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen; the defaults are Ollama's, and llama.cpp's where Ollama has none.

    `seed` None means a fresh random seed. DRY, XTC, top_n_sigma and mirostat are off unless their multiplier,
    probability, number of deviations or version says otherwise.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    top_n_sigma: float = -1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


class ResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A constraint on the answer: any JSON object, JSON that a schema (as text) allows, or a text.

    The whole text is what the regular expression `schema` matches, or its grammar allows: in llguidance's dialect of
    Lark, or in llama.cpp's notation (GBNF).
    """

    kind: Literal["json_object", "json_schema", "regex", "grammar"]
    schema: str | None = None


class ContextFile(msgspec.Struct, frozen=True):
    """A file, or a piece of one, that a text to fill in belongs to."""

    name: str
    text: str


class FillIn(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands behind the gap that is to be filled; the prompt stands before it.

    `files` come before both, the oldest first; None asks for the model's form without any.
    """

    suffix: str
    files: tuple[ContextFile, ...] | None = None


class Rendering(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model's template is to write a conversation.

    `variables` is JSON text of an object, for names that the template reads. With `continues_final_message` the prompt
    ends with the last message, open; without `prompts` it asks for no answer.
    """

    variables: str | None = None
    continues_final_message: bool = False
    prompts: bool = True


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request for generated text, whatever the dialect. Of `messages`, `prompt` and `prompt_tokens` one is set.

    `raw` sends `prompt` to the tokenizer as it is; `fill_in` makes it the text before a gap; it goes on from
    `context_tokens`, which the Finished of a request has that `returns_context`. `template`, in Go's language, is
    instead of the model's. `think` None leaves thinking to it; the option `thinking_budget` is its most tokens.
    `keep_alive_seconds` None leaves the model's keep-alive as it is; infinity is for ever.
    `context_policy` says what happens to a prompt that does not fit: refused with the numbers, or cut.
    `shifts_context` lets an answer that reaches the end of its context go on without the older half of it.
    `priority` says who waits for whom; requests of one `client` share what that client is given.
    `logprobs` asks for each token's log-probability and that many of the likeliest in its place, up to MOST_LOGPROBS;
    `prompt_logprobs` for those of the prompt, which is computed whole for them.
    `early_arguments`: who asks takes the arguments of a call while they are written, and bears it if one is cut off.
    `prefill_seconds_most` bounds the time to the first token, `decode_seconds_most` that of an answer which has a whole
    line by then: what is out of time ends with "length".
    """

    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    prompt_tokens: tuple[int, ...] | None = None
    fill_in: FillIn | None = None
    context_tokens: tuple[int, ...] | None = None
    returns_context: bool = False
    template: str | None = None
    raw: bool = False
    system: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    response_format: ResponseFormat | None = None
    think: bool | str | None = None
    rendering: Rendering = Rendering()
    options: Options = Options()
    keep_alive_seconds: float | None = None
    context_policy: Literal["refuse", "truncate"] = "refuse"
    shifts_context: bool = False
    priority: Priority = "interactive"
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    early_arguments: bool = False
    prefill_seconds_most: float | None = None
    decode_seconds_most: float | None = None
    client: str = ""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Token counts of one request. `prompt_tokens` include `cached_tokens`, `completion_tokens` `thinking_tokens` and
    the `accepted_tokens` of those that were `drafted_tokens`: guessed before, then checked."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class CacheMiss(msgspec.Struct, frozen=True):
    """Where a prompt parted from the earlier one that it agreed with longest: `position` tokens are equal, the last of
    them `shared_text`; then the earlier request `request_id` went on with `cached_text`, this one with `prompt_text`,
    one token each."""

    position: int
    shared_text: str
    cached_text: str
    prompt_text: str
    request_id: int


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the time of one request went, in seconds."""

    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    total_seconds: float = 0.0


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token's bytes, which may be part of a character, and the natural logarithm of its probability.

    Nothing stands before a prompt's first token: it has none. `top` are the likeliest in its place, likeliest first,
    without their own. Probabilities are the model's, before any sampling option.
    """

    data: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()

    @property
    def text(self) -> str:
        """The bytes as text; what is no UTF-8 becomes U+FFFD."""
        return self.data.decode("utf-8", "replace")


class PromptProgress(msgspec.Struct, frozen=True, tag="progress", omit_defaults=True):
    """The prompt is tokenized, or one more chunk of it is computed. `processed_tokens` includes `cached_tokens`, taken
    over from an earlier request; `logprobs` are of those computed."""

    processed_tokens: int
    prompt_tokens: int
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class ContentDelta(msgspec.Struct, frozen=True, tag="content", omit_defaults=True):
    """More of the answer, and the logprobs of its tokens if they were asked for; a token may come without text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking"):
    """More of the model's thinking."""

    text: str


class ToolCallDelta(msgspec.Struct, frozen=True, tag="tool_call", omit_defaults=True):
    """More of the `index`-th tool call: id and name come first and once, then pieces of the arguments' JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Finished(msgspec.Struct, frozen=True, tag="finished", omit_defaults=True):
    """The last event of a request that ended well.

    `stop_text` is the stop string that ended the answer, if one did. `dropped_messages` went because the prompt did not
    fit, `dropped_tokens` because the context was shifted or the text around a gap did not fit.
    `cache_miss` is None when the prompt went on from an earlier one, or resembled none. `unfinished_tool_call`: the
    answer ended within a call, which came as content then. `context` are the tokens of prompt and answer. `fallback`:
    why something of the model is on the CPU that was meant for a GPU.
    """

    reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    dropped_messages: int = 0
    dropped_tokens: int = 0
    cache_miss: CacheMiss | None = None
    stop_text: str | None = None
    context: tuple[int, ...] = ()
    unfinished_tool_call: bool = False
    fallback: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    """The last event of a request that did not."""

    code: str
    status: int
    message: str
    hint: str | None = None


Event = PromptProgress | ContentDelta | ThinkingDelta | ToolCallDelta | Finished | Failed


class OfChoice(msgspec.Struct, frozen=True):
    """An event of the `index`-th of several answers to one request, from 0; after them all comes one Finished."""

    index: int
    event: Event


AnswerEvent = Event | OfChoice


_NOTHING_SAID = Options()
_LEAST_REPEAT_PENALTY = 0.01
_OPTION_NAMES = frozenset(Options.__struct_fields__)


def merge_options(*layers: Options) -> Options:
    """Lay options over each other: for each name the first layer that says something wins."""
    telling = [layer for layer in layers if layer is not _NOTHING_SAID and layer != _NOTHING_SAID]
    if len(telling) < 2:  # as most requests have it
        return telling[0] if telling else _NOTHING_SAID
    merged: dict[str, Any] = {}
    for layer in reversed(telling):
        values = zip(Options.__struct_fields__, msgspec.structs.astuple(layer), strict=True)
        merged.update((name, value) for name, value in values if value is not None)
    return Options(**merged)


def sampling_from(options: Options) -> Sampling:
    """The sampling part of `options`, with Ollama's defaults where nothing was said."""
    said = {name: value for name in Sampling.__struct_fields__ if (value := getattr(options, name)) is not None}
    if said.get("seed") == -1:
        del said["seed"]
    if said.get("repeat_penalty") == 0.0:  # logits are divided by it; clients mean that there is none
        del said["repeat_penalty"]
    elif "repeat_penalty" in said:
        said["repeat_penalty"] = max(_LEAST_REPEAT_PENALTY, said["repeat_penalty"])
    return Sampling(**said)


def parse_options(
    values: Mapping[str, object], options: Mapping[str, str] | None = None
) -> tuple[Options, tuple[str, ...]]:
    """Check option values from JSON; return them and the names nobody knows (for a warning, as Ollama does).

    `options` says which option a name of the client's is that is not called so. Floats are accepted for integers
    (truncated) and nulls skipped: the Python clients rely on both.
    Raises InvalidOptionError with the name that the client wrote and what it accepts.
    """
    known: dict[str, Any] = {}
    unknown: list[str] = []
    option_of = options or {}
    for name, value in values.items():
        option = option_of.get(name, name)
        if option not in _OPTION_NAMES:
            unknown.append(name)
        elif value is not None:
            known[option] = read_option(option, value, name)
    return Options(**known) if known else _NOTHING_SAID, tuple(unknown)
