"""The handlers of OpenAI's Responses: make one, go on from one, look at one, cancel and delete one.

    POST ─▶ read_body ─▶ what previous_response_id and item references mean ─▶ decode ─▶ generate's answer
                                                                                            │ its end
                                                                    the store ◀── settle ◀──┘
    GET, DELETE, cancel, input_items ─▶ the store

Whose a response is: that of the key it was made with; without keys, of whoever may ask at all. Ids are random, so that
nobody guesses one, and another's is as unknown as one that never was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localllm.dialects import openai_responses
from localllm.dialects.framing import JSON_MEDIA_TYPE, to_json
from localllm.dialects.openai_responses import Body, DecodedResponse
from localllm.dialects.openai_responses_encode import ResponsesEncoder
from localllm.dialects.openai_responses_items import StoredItem, place, stored_items
from localllm.errors import InvalidFieldError, ResponseCancelledError, UnsupportedError
from localllm.generation import AnswerEvent, Failed, Finished
from localllm.server.access import HOLDER
from localllm.server.generate import Route, answer_decoded
from localllm.server.keyring import Holder
from localllm.server.questions import ask_about
from localllm.server.replies import json_response
from localllm.server.responses_store import Kept
from localllm.server.services import Services
from localllm.server.streaming import AnswerResponse

_ID_PARTS = 3  # of 64 random bits each
MOST_ITEMS, USUAL_ITEMS = 100, 20


async def create(services: Services, request: Request) -> AnswerResponse | _KeptAnswer:
    """POST /v1/responses."""
    body = await request.body()
    fields = openai_responses.read_body(body)
    owner = owner_of(request)
    decoded, previous = _decode(services, fields, body, owner)
    response_id = "resp_" + "".join(services.new_id() for _ in range(_ID_PARTS))
    stores = fields.store is not False and services.responses.keeps
    plain = ResponsesEncoder(response_id, decoded, services.clock.time_ns(), stores=stores)
    encoder = _KeptEncoder(services, plain)
    route = Route("chat", lambda _: decoded.decoded, lambda _, __: encoder)
    answer = await answer_decoded(services, request, decoded.decoded, route)
    if not stores:
        return answer
    kept = Kept(
        response_id,
        owner,
        previous,
        stored_items(decoded.items, lambda kind, index: f"{kind}_{response_id.removeprefix('resp_')}i{index:02x}"),
        plain.response(),
        lambda: answer.fail(ResponseCancelledError("the response was cancelled")),
        services.clock.monotonic(),
    )
    return _KeptAnswer(answer, encoder, kept)


async def count_tokens(services: Services, request: Request) -> Response:
    """POST /v1/responses/input_tokens: exact, by the model's own template and tokenizer."""
    body = await request.body()
    decoded, _ = _decode(services, openai_responses.read_body(body), body, owner_of(request))
    asked = await ask_about(services, request, decoded.decoded, lambda runner, asked: runner.prompt_tokens(asked))
    counted = to_json({"object": "response.input_tokens", "input_tokens": len(asked.value)})
    return asked.response(counted, decoded.decoded.ignored)


async def retrieve(services: Services, request: Request) -> Response:
    """GET /v1/responses/{id}."""
    if request.query_params.get("stream", "").lower() == "true":
        raise UnsupportedError(
            "a response cannot be streamed a second time", hint="leave `stream` out: the answer has all of it"
        )
    return Response(_find(services, request).body, media_type=JSON_MEDIA_TYPE)


async def delete(services: Services, request: Request) -> Response:
    """DELETE /v1/responses/{id}. One that is in progress is cancelled."""
    kept = _find(services, request)
    cancel = kept.cancel
    services.responses.drop(kept)
    if cancel is not None:
        cancel()
    return json_response({"id": kept.id, "object": "response", "deleted": True})


async def cancel(services: Services, request: Request) -> Response:
    """POST /v1/responses/{id}/cancel. One that is over stays as it is."""
    kept = _find(services, request)
    body = kept.body
    if kept.cancel is not None:
        kept.cancel()
        # Its answer ends in its own time; who cancels need not wait for it.
        body = to_json({**msgspec.json.decode(body, type=dict[str, msgspec.Raw]), "status": "cancelled"})
    return Response(body, media_type=JSON_MEDIA_TYPE)


async def input_items(services: Services, request: Request) -> Response:
    """GET /v1/responses/{id}/input_items: all that the model was given, the newest first unless `order` is "asc"."""
    items = list(_find(services, request).context())
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidFieldError(f'order is "{order}", but must be "asc" or "desc"', field="order")
    return json_response(_page(items if order == "asc" else items[::-1], request))


def owner_of(request: Request) -> str:
    """Whose responses a request may see: those of its key; the shared key's, and nobody's, are apart from these."""
    holder: Holder | None = request.scope.get(HOLDER)
    if holder is None:
        return ""
    return f"key {holder.id}" if holder.id else "shared key"


def _decode(services: Services, fields: Body, body: bytes, owner: str) -> tuple[DecodedResponse, Kept | None]:
    now = services.clock.monotonic()
    previous = None
    if fields.previous_response_id:
        previous = services.responses.previous(fields.previous_response_id, owner, now)
    conversation = previous.conversation() if previous is not None else ()
    earlier = [place(item.text, f"previous_response_id.items[{at}]") for at, item in enumerate(conversation)]
    decoded = openai_responses.decode(fields, body, earlier, lambda item_id: services.responses.item(item_id, owner))
    return decoded, previous


def _find(services: Services, request: Request) -> Kept:
    return services.responses.find(request.path_params["id"], owner_of(request), services.clock.monotonic())


def _page(items: list[StoredItem], request: Request) -> dict[str, Any]:
    limit = _limit(request.query_params.get("limit"))
    after = request.query_params.get("after")
    if after is not None:
        ids = [item.id for item in items]
        if after not in ids:
            raise InvalidFieldError(f"after is '{after}', which is no item of this response", field="after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    return {
        "object": "list",
        "data": [msgspec.Raw(item.text) for item in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(items) > limit,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return USUAL_ITEMS
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MOST_ITEMS):
        raise InvalidFieldError(f"limit is {text!r}, but must be 1 to {MOST_ITEMS}", field="limit")
    return int(text)


class _KeptEncoder:
    """An encoder whose response the store has when the client has its last byte: it may go on from it at once."""

    def __init__(self, services: Services, encoder: ResponsesEncoder) -> None:
        self._store = services.responses
        self._monotonic = services.clock.monotonic
        self._encoder = encoder
        self.media_type = encoder.media_type
        self.kept: Kept | None = None

    def begin(self, kept: Kept) -> None:
        """From now on the store knows of it."""
        self.kept = kept
        self._store.begin(kept)

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        data = self._encoder.chunk(event, now_ns)
        if isinstance(event, (Finished, Failed)):
            self.settle()
        return data

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        body = self._encoder.whole(events, now_ns)
        self.settle()
        return body

    def ping(self) -> bytes:
        return self._encoder.ping()

    def error(self, failed: Failed) -> bytes:
        return self._encoder.error(failed)

    def settle(self) -> None:
        """Keep what there is of the response; of one that is over already nothing changes."""
        kept, self.kept = self.kept, None
        if kept is None:
            return
        if self._encoder.has_begun:
            self._encoder.abandon()
            self._store.end(kept, self._encoder.response(), self._encoder.output, self._monotonic())
        else:  # an error instead of an answer: there is no response of that id
            self._store.drop(kept)


class _KeptAnswer:
    """An answer that is known to the store from its beginning on, and settled however it ends."""

    def __init__(self, answer: AnswerResponse, encoder: _KeptEncoder, kept: Kept) -> None:
        self._answer = answer
        self._encoder = encoder
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._encoder.begin(self._kept)
        try:
            await self._answer(scope, receive, send)
        finally:
            self._encoder.settle()
