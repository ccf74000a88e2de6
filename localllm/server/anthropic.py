"""The handlers of Anthropic's dialect: messages, and how many tokens one would be."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects.anthropic import decode_count, decode_messages
from localllm.dialects.anthropic_encode import AnthropicEncoder, count_body
from localllm.dialects.body import Decoded
from localllm.logs import request_id
from localllm.server.generate import Route, answer
from localllm.server.questions import ask_about
from localllm.server.services import Services
from localllm.server.streaming import AnswerResponse


async def messages(services: Services, request: Request) -> AnswerResponse:
    """POST /v1/messages."""
    return await answer(services, request, _MESSAGES)


async def count_tokens(services: Services, request: Request) -> Response:
    """POST /v1/messages/count_tokens: exact, by the model's own template and tokenizer."""
    decoded = decode_count(await request.body())
    asked = await ask_about(services, request, decoded, lambda runner, asked: runner.prompt_tokens(asked))
    return asked.response(count_body(len(asked.value)), decoded.ignored)


def _encoder(decoded: Decoded, services: Services) -> AnthropicEncoder:
    options = decoded.request.options
    return AnthropicEncoder(
        f"msg_{services.new_id()}",
        decoded.request.model,
        options.stop or (),
        options.num_predict,
        request_id=request_id.get(),
    )


_MESSAGES = Route("chat", decode_messages, _encoder)
