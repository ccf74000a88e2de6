"""Read a request body's JSON into typed structs, with errors that name the field; what every decoder shares.

Decoding is typed (msgspec) rather than a walk over dicts: a field nobody reads is skipped without being built, so a
body made of junk costs little more than its bytes. JSON that is passed on untouched (tools, schemas, arguments) stays
text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from localllm.dialects.framing import is_object, to_json
from localllm.durations import parse_keep_alive
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import MOST_LOGPROBS, GenerationRequest, Message, ResponseFormat, Role, Tool, ToolChoice

T = TypeVar("T")

# JSON that the chat template or the grammar will walk recursively in the runner.
MAX_NESTING = 64

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_TYPE_NAMES = {"str": "a string", "bool": "a boolean", "int": "an integer", "float": "a number", "array": "an array",
               "object": "an object", "null": "null"}  # fmt: skip
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`(?: - at `\$\.?(?P<path>.*)`)?")
_ESCAPE = re.compile(
    rb"\\(?:(u[dD][89abAB][0-9a-fA-F]{2})(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|(u[dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A body, understood. `request.model` is the name as the client wrote it.

    `action` "load" and "unload" are Ollama's empty prompts, "render" asks for the prompt instead of an answer.
    `unknown_options` are names to warn about, `ignored` fields that say something and change nothing.

    `choices` are the requests of an answer that is made of several: `candidates_per_prompt` of them for each prompt, of
    which `answers_per_prompt` are told. `echoes` lets each begin with its prompt; a dialect that tells logprobs only
    sometimes looks at `shows_logprobs`, and `service_tier` is for the answer to repeat. `thinks_if_it_can`: a
    model that cannot think is to answer without. `response_fields` are paths that llama-server's answers are cut to;
    `reports_progress` lets a stream tell how far the prompt is, `reports_timings` how fast it goes. `mixed_prompts` are
    those prompts, by their place, that are texts and token ids in turn.
    """

    request: GenerationRequest
    stream: bool
    action: Literal["generate", "load", "unload", "render"] = "generate"
    include_usage: bool = False
    unknown_options: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    choices: tuple[GenerationRequest, ...] = ()
    candidates_per_prompt: int = 1
    answers_per_prompt: int = 1
    echoes: bool = False
    shows_logprobs: bool = False
    service_tier: str | None = None
    thinks_if_it_can: bool = False
    response_fields: tuple[str, ...] = ()
    reports_progress: bool = False
    reports_timings: bool = False
    mixed_prompts: Mapping[int, tuple[str | int, ...]] = field(default_factory=dict)


def read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode `body`. Raises InvalidFieldError, naming the field when one is at fault."""
    if not body.strip():
        raise InvalidFieldError("missing request body")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:  # which msgspec does not see in what it passes over
            raise InvalidFieldError("the body is not valid JSON: it is not UTF-8") from None
    return read_inside(body, decoder)


def read_inside(text: bytes, decoder: msgspec.json.Decoder[T], field: str = "") -> T:
    """Decode the JSON that stands at `field` of the body. Raises InvalidFieldError."""
    where = field or "the body"
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), inside=field) from None
    except msgspec.DecodeError as error:
        # Editors cut text in the middle of an emoji and send half a surrogate pair, which other servers accept.
        mended = _ESCAPE.sub(_without_lone_surrogate, text)
        if mended != text:
            return read_inside(mended, decoder, field)
        raise InvalidFieldError(f"{where} is not valid JSON: {error}", field=field or None) from None
    except RecursionError:
        raise InvalidFieldError(f"{where} is nested too deeply", field=field or None) from None


def read_text(text: str | bytes, field: str) -> Any:
    """Parse JSON that is passed on as text, to be sure that it is JSON. Raises InvalidFieldError naming `field`."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidFieldError(f"{field} is not valid JSON: {error}", field=field) from None
    except RecursionError:
        raise InvalidFieldError(f"{field} is nested too deeply", field=field) from None
    if _is_deeper_than(value, MAX_NESTING):
        raise InvalidFieldError(f"{field} is nested deeper than {MAX_NESTING} levels", field=field)
    return value


_names_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def ignored_names(body: bytes, shape: type[msgspec.Struct], *unused: str) -> tuple[str, ...]:
    """The fields of `body` that `shape` does not read, or only to leave `unused`; null says nothing."""
    try:
        said = _names_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):  # with half a surrogate pair, which `read` has mended
        return ()
    used = _names_of(shape)
    return tuple(
        name for name, value in said.items() if (name not in used or name in unused) and bytes(value) != b"null"
    )


@functools.cache
def _names_of(shape: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(shape.__struct_encode_fields__)


def read_keep_alive(value: object) -> float | None:
    """Seconds, infinity for ever, None when not said. Raises InvalidFieldError with Ollama's words."""
    if value is None:
        return None
    try:
        return parse_keep_alive(value)
    except ValueError as error:
        raise InvalidFieldError(str(error), field="keep_alive") from None


def read_logprobs(logprobs: bool | None, top_logprobs: int | None) -> int | None:
    """How many likeliest tokens to tell beside each token; None without logprobs. Raises InvalidFieldError."""
    if top_logprobs is not None and not 0 <= top_logprobs <= MOST_LOGPROBS:
        raise InvalidFieldError(f"top_logprobs must be between 0 and {MOST_LOGPROBS}", field="top_logprobs")
    if top_logprobs and not logprobs:
        raise InvalidFieldError("top_logprobs needs logprobs to be true", field="top_logprobs")
    return (top_logprobs or 0) if logprobs else None


def part_text(kind: str | None, text: str | None, kinds: Collection[str | None], field: str) -> str:
    """The text of a part of a message, which is of one of these `kinds`. Raises BadRequestError's kinds."""
    if kind not in kinds:
        raise UnsupportedError(f'{field} has the type "{kind or ""}", but this version reads only text')
    if text is None:
        raise InvalidFieldError(f"{field}.text is missing", field=f"{field}.text")
    return text


def result_text(kind: str | None, field: str, told: list[str], read: Callable[[], str]) -> str:
    """A part of a tool's result as `read` has it; of a picture and the like only that it was left out, which is `told`.

    Agents look at pictures of their own accord, and send them with every later request: refused once, a conversation
    would be at its end. What a person sends is refused.
    """
    try:
        return read()
    except UnsupportedError:
        told.append(field)
        return f"[{kind} left out: this model reads only text]"


def read_role(text: str | None, field: str) -> Role:
    """A role in any case; "developer" is the newer word for "system". Raises InvalidFieldError."""
    role = _ROLES.get((text or "").lower())
    if role is None:
        wanted = ", ".join(f'"{name}"' for name in _ROLES)
        raise InvalidFieldError(f'{field} is "{text or ""}", but must be one of {wanted}', field=field)
    return role


class _Function(msgspec.Struct):
    name: str | None = None
    strict: bool | None = None


class _ToolShape(msgspec.Struct):
    type: str | None = None
    function: _Function | None = None


_tool_decoder = msgspec.json.Decoder(_ToolShape)


def read_tools(tools: list[msgspec.Raw] | None, told: list[str]) -> tuple[Tool, ...]:
    """The functions among `tools`, their JSON untouched. Other kinds, which agents send, are skipped and told.

    Raises InvalidFieldError for a function without a name.
    """
    functions: list[Tool] = []
    for index, raw in enumerate(tools or ()):
        field = f"tools[{index}]"
        text = bytes(raw)
        if not isinstance(read_text(text, field), dict):
            raise InvalidFieldError(f"{field} must be an object", field=field)
        shape = read_inside(text, _tool_decoder, field)
        if shape.type not in (None, "", "function"):
            told.append(field)
            continue
        if shape.function is None or not shape.function.name:
            raise InvalidFieldError(f"{field}.function.name is missing", field=f"{field}.function.name")
        functions.append(Tool(shape.function.name, text.decode(), strict=bool(shape.function.strict)))
    return tuple(functions)


def call_arguments(text: str | None, field: str) -> str:
    """The arguments of a call in a conversation, as the JSON text of an object. Raises InvalidFieldError.

    A call that was cut off comes back as it was made: the conversation must not end there for good.
    """
    if text is None or text.strip() in ("", "null"):
        return "{}"
    if is_object(text):
        read_text(text, field)
        return text
    return to_json({"arguments": text}).decode()


def is_begun(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer: the assistant's, with text alone."""
    last = messages[-1] if messages else Message("user")
    return last.role == "assistant" and bool(last.content.strip()) and not last.tool_calls


def goes_on(messages: Sequence[Message], form: ResponseFormat | None, choice: ToolChoice) -> bool:
    """Whether a chat's answer is the rest of its last message, as Ollama and llama-server have it.

    Text that was not asked for in a form, nor as a call, is no beginning of one.
    """
    return is_begun(messages) and form is None and choice.mode != "required"


def with_tool_names(messages: list[Message]) -> tuple[Message, ...]:
    """Name the tool of each tool message that only says which call it answers: templates ask for the name."""
    names: dict[str, str] = {}
    named: list[Message] = []
    for message in messages:
        names.update((call.id, call.name) for call in message.tool_calls if call.id)
        if message.role == "tool" and message.tool_name is None and message.tool_call_id in names:
            message = msgspec.structs.replace(message, tool_name=names[message.tool_call_id])
        named.append(message)
    return tuple(named)


def _wrong_type(message: str, inside: str = "") -> InvalidFieldError:
    match = _EXPECTED.fullmatch(message)
    if match is None:
        return InvalidFieldError(message)
    path = ".".join(part for part in (inside, match["path"] or "") if part)
    wanted = [_TYPE_NAMES.get(name, name) for name in match["wanted"].split(" | ") if name != "null"]
    got = _TYPE_NAMES.get(match["got"], match["got"])
    return InvalidFieldError(f"{path or 'the body'} must be {' or '.join(wanted)}, not {got}", field=path or None)


def _without_lone_surrogate(match: re.Match[bytes]) -> bytes:
    high, low, stray_low = match.groups()
    return rb"\ufffd" if stray_low or (high and not low) else match.group(0)


def _is_deeper_than(value: object, levels: int) -> bool:
    layer: list[object] = [value]
    for _ in range(levels + 1):
        layer = [child for item in layer for child in _children(item)]
        if not layer:
            return False
    return True


def _children(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []
