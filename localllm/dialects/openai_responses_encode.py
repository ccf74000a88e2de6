"""Events as OpenAI's Responses: named server-sent events, or the one object that they build up.

    response.created ▶ response.in_progress ▶ (output_item.added ▶ … ▶ output_item.done)* ▶ response.completed
                                                                                          │ response.incomplete
                                                                                          └ response.failed
    message     content_part.added ▶ output_text.delta* ▶ output_text.done ▶ content_part.done
    reasoning   the same with reasoning_text; reasoning_summary_part and …_summary_text if a summary was asked for
    calls       function_call_arguments.delta* ▶ .done, or custom_tool_call_input.delta ▶ .done

Every event has the next `sequence_number`; the last holds the whole response. "incomplete" is the end of an answer that
reached a limit, or (with the status "cancelled") that somebody cancelled. There is no [DONE], as with OpenAI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from localllm.dialects.framing import NANOSECONDS, SSE_MEDIA_TYPE, SSE_PING, merged, to_json, token_logprobs
from localllm.dialects.openai_encode import ERROR_CODES, error_body, our_notes
from localllm.dialects.openai_responses import DecodedResponse, echo_json
from localllm.dialects.openai_responses_items import StoredItem, sealed
from localllm.dialects.openai_responses_tools import CalledTool, custom_input
from localllm.generation import (
    AnswerEvent,
    ContentDelta,
    Failed,
    Finished,
    OfChoice,
    PromptProgress,
    ThinkingDelta,
    ToolCallDelta,
    Usage,
)

CANCELLED = "cancelled"
_PINGS_PER_EVENT = 6  # with the usual ten seconds between pings, one each minute
_Kind = Literal["message", "reasoning", "call"]
_Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
_FUNCTION = CalledTool("function", "")


@dataclass(slots=True)
class _Item:
    """The output item that is open. `call` is the place of a tool call, `head` begins the fields of its deltas.

    `logprobs` are JSON, of each delta without its brackets: they are many, and told again with all that ends an item.
    """

    kind: _Kind
    id: str
    head: bytes
    call: int = -1
    call_id: str = ""
    tool: CalledTool = _FUNCTION
    texts: list[str] = field(default_factory=list)
    logprobs: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def all_logprobs(self) -> msgspec.Raw:
        return msgspec.Raw(b"[" + b",".join(self.logprobs) + b"]")


class ResponsesEncoder:
    """One answer to /v1/responses. `id` is the response's; `stores` says whether it can be asked for later."""

    media_type = SSE_MEDIA_TYPE

    def __init__(self, id: str, request: DecodedResponse, created_ns: int, *, stores: bool) -> None:
        self._id = id
        self._request = request
        self._created = created_ns // NANOSECONDS
        self._echo = echo_json(request.echo, store=stores)
        self._number = 0
        self._pings = 0
        self._output: list[StoredItem] = []
        self._open: _Item | None = None
        self._status: _Status = "in_progress"
        self._failed: Failed | None = None
        self._finished: Finished | None = None
        self._completed: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to keep."""
        return self._number > 0 or self._status != "in_progress"

    @property
    def output(self) -> tuple[StoredItem, ...]:
        """The items that are done."""
        return tuple(self._output)

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """The events that `event` becomes; those of Finished and Failed are the last."""
        begun = self._begin() if self._number == 0 else b""
        return begun + self._take(event, now_ns)

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The response object."""
        for event in merged(events):
            self._take(event, now_ns)
        return self.response()

    def ping(self) -> bytes:
        """The beginning, so that who waits knows the response's id; then comments.

        Some clients, Codex for one, give up after minutes without an event, and a comment is none: so now and then it
        is one that says nothing new, as long as there is no output that it would have to repeat.
        """
        if self._number == 0:
            return self._begin()
        self._pings += 1
        if self._pings % _PINGS_PER_EVENT or self._output or self._open is not None:
            return SSE_PING
        return self._event("response.in_progress", b'"response":' + self.response())

    def error(self, failed: Failed) -> bytes:
        """OpenAI's error object."""
        if failed.code == CANCELLED:
            self.abandon()
        return error_body(failed)

    def abandon(self) -> None:
        """Nobody waits for the answer any more: what there is of it is all."""
        if self._status == "in_progress":
            self._close("incomplete")
            self._status = "cancelled"

    def response(self) -> bytes:
        """The response object as it is now."""
        head = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._completed,
            "status": self._status,
            "error": _error(self._failed) if self._status == "failed" and self._failed else None,
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == "incomplete" else None,
            "output": [msgspec.Raw(item.text) for item in self._output],
            "usage": _usage(self._finished.usage) if self._finished else None,
            **(our_notes(self._finished) if self._finished else {}),
        }
        return to_json(head)[:-1] + self._echo

    # The lifecycle

    def _take(self, event: AnswerEvent, now_ns: int) -> bytes:
        if isinstance(event, ContentDelta):
            return self._content(event)
        if isinstance(event, ThinkingDelta):
            return self._thought(event)
        if isinstance(event, ToolCallDelta):
            return self._call(event)
        if isinstance(event, (PromptProgress, OfChoice)):
            return b""
        return self._fail(event) if isinstance(event, Failed) else self._finish(event, now_ns)

    def _begin(self) -> bytes:
        response = b'"response":' + self.response()
        return self._event("response.created", response) + self._event("response.in_progress", response)

    def _finish(self, event: Finished, now_ns: int) -> bytes:
        is_cut = event.reason == "length"
        last = self._close("incomplete" if is_cut else "completed")
        if not self._output or (not is_cut and _is_reasoning(self._output[-1])):
            last += self._turn_to("message") + self._close("completed")  # clients look for a message, even an empty one
        self._finished = event
        self._status = "incomplete" if is_cut else "completed"
        self._completed = None if is_cut else now_ns // NANOSECONDS
        return last + self._event(f"response.{self._status}", b'"response":' + self.response())

    def _fail(self, event: Failed) -> bytes:
        last = self._close("incomplete")
        self._failed = event
        self._status = "cancelled" if event.code == CANCELLED else "failed"
        # There is no event for the end of what was cancelled; this one lets clients keep what they have.
        name = "response.incomplete" if event.code == CANCELLED else "response.failed"
        return last + self._event(name, b'"response":' + self.response())

    # Items

    def _content(self, event: ContentDelta) -> bytes:
        before = self._turn_to("message")
        item = self._item()
        item.texts.append(event.text)
        logprobs = to_json(token_logprobs(event.logprobs))[1:-1] if event.logprobs else b""
        if logprobs:
            item.logprobs.append(logprobs)
        fields = item.head + b',"delta":' + to_json(event.text) + b',"logprobs":[' + logprobs + b"]"
        return before + self._event("response.output_text.delta", fields)

    def _thought(self, event: ThinkingDelta) -> bytes:
        before = self._turn_to("reasoning")
        item = self._item()
        item.texts.append(event.text)
        name = "reasoning_summary_text" if self._request.summarizes else "reasoning_text"
        return before + self._event(f"response.{name}.delta", item.head + b',"delta":' + to_json(event.text))

    def _call(self, event: ToolCallDelta) -> bytes:
        before = self._turn_to("call", event)
        item = self._item()
        item.texts.append(event.arguments)
        # A custom tool's input stands inside of its function's arguments: it is told when these are complete.
        if item.tool.kind == "custom" or not event.arguments:
            return before
        fields = item.head + b',"delta":' + to_json(event.arguments)
        return before + self._event("response.function_call_arguments.delta", fields)

    def _item(self) -> _Item:
        assert self._open is not None
        return self._open

    def _turn_to(self, kind: _Kind, call: ToolCallDelta | None = None) -> bytes:
        """Have an item of that kind open, after closing another."""
        place = call.index if call else -1
        if self._open is not None and (self._open.kind, self._open.call) == (kind, place):
            return b""
        before = self._close("completed")
        item = self._open = self._new_item(kind, place, call)
        added = b'"output_index":%d,"item":' % len(self._output) + to_json(self._object(item, "in_progress"))
        return before + self._event("response.output_item.added", added) + self._part("added", item, "")

    def _new_item(self, kind: _Kind, place: int, call: ToolCallDelta | None) -> _Item:
        index = len(self._output)
        tool = self._request.tools.get(call.name or "", CalledTool("function", call.name or "")) if call else _FUNCTION
        prefix = {"message": "msg", "reasoning": "rs", "call": "ctc" if tool.kind == "custom" else "fc"}[kind]
        item_id = f"{prefix}_{self._id.removeprefix('resp_')}{index:02x}"
        part = {"message": b',"content_index":0', "call": b""}.get(kind)
        if part is None:
            part = b',"summary_index":0' if self._request.summarizes else b',"content_index":0'
        head = b'"item_id":' + to_json(item_id) + b',"output_index":%d' % index + part
        return _Item(kind, item_id, head, place, (call.id or "") if call else "", tool)

    def _close(self, status: Literal["completed", "incomplete"]) -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        text = item.text
        done = self._text_done(item, text) + self._part("done", item, text)
        whole = to_json(self._object(item, status))
        done += self._event("response.output_item.done", b'"output_index":%d,"item":' % len(self._output) + whole)
        self._output.append(StoredItem(item.id, whole))
        return done

    def _text_done(self, item: _Item, text: str) -> bytes:
        if item.kind == "message":
            fields = b',"text":' + to_json(text) + b',"logprobs":' + bytes(item.all_logprobs)
            return self._event("response.output_text.done", item.head + fields)
        if item.kind == "reasoning":
            name = "reasoning_summary_text" if self._request.summarizes else "reasoning_text"
            return self._event(f"response.{name}.done", item.head + b',"text":' + to_json(text))
        if item.tool.kind == "custom":
            told = to_json(custom_input(text))
            delta = self._event("response.custom_tool_call_input.delta", item.head + b',"delta":' + told)
            return delta + self._event("response.custom_tool_call_input.done", item.head + b',"input":' + told)
        fields = item.head + b',"name":' + to_json(item.tool.name) + b',"arguments":' + to_json(text)
        return self._event("response.function_call_arguments.done", fields)

    def _part(self, what: Literal["added", "done"], item: _Item, text: str) -> bytes:
        """The event for the one part that messages and thinking have."""
        if item.kind == "call":
            return b""
        is_summary = item.kind == "reasoning" and self._request.summarizes
        name = f"response.{'reasoning_summary_part' if is_summary else 'content_part'}.{what}"
        part = self._part_object(item, text)
        return self._event(name, item.head + b',"part":' + to_json(part))

    def _part_object(self, item: _Item, text: str) -> dict[str, Any]:
        if item.kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": item.all_logprobs}
        return {"type": "summary_text" if self._request.summarizes else "reasoning_text", "text": text}

    def _object(self, item: _Item, status: Literal["in_progress", "completed", "incomplete"]) -> dict[str, Any]:
        """The item as an object: empty at its beginning, whole at its end."""
        is_new, text = status == "in_progress", item.text
        parts = [] if is_new else [self._part_object(item, text)]
        if item.kind == "message":
            return {"id": item.id, "type": "message", "status": status, "role": "assistant", "content": parts}
        if item.kind == "reasoning":
            is_sealed = self._request.seals_thinking and not is_new
            return {
                "id": item.id,
                "type": "reasoning",
                "status": status,
                "summary": parts if self._request.summarizes else [],
                **({} if self._request.summarizes else {"content": parts}),
                "encrypted_content": sealed(text) if is_sealed else None,
            }
        named = {"call_id": item.call_id, "name": item.tool.name}
        if item.tool.namespace:
            named["namespace"] = item.tool.namespace
        if item.tool.kind == "custom":
            told = "" if is_new else custom_input(text)
            return {"id": item.id, "type": "custom_tool_call", "status": status, **named, "input": told}
        return {"id": item.id, "type": "function_call", "status": status, **named, "arguments": text}

    def _event(self, name: str, fields: bytes) -> bytes:
        number, self._number = self._number, self._number + 1
        kind = name.encode()
        return b'event: %b\ndata: {"type":"%b",%b,"sequence_number":%d}\n\n' % (kind, kind, fields, number)


def _is_reasoning(item: StoredItem) -> bool:
    return item.id.startswith("rs_")


def _error(failed: Failed) -> dict[str, str]:
    code = ERROR_CODES.get(failed.code) or ("server_error" if failed.status >= 500 else "invalid_prompt")
    return {"code": code, "message": f"{failed.message}; {failed.hint}" if failed.hint else failed.message}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.prompt_tokens - usage.cached_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
