"""The handlers of /api/generate and /api/chat: an answer, or for `_debug_render_only` the prompt it would follow."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects.ollama_encode import rendered_body
from localllm.server.generate import OLLAMA_CHAT, OLLAMA_GENERATE, Route, answer_decoded
from localllm.server.questions import ask_about
from localllm.server.services import Services
from localllm.server.streaming import AnswerResponse


async def generate(services: Services, request: Request) -> AnswerResponse | Response:
    """POST /api/generate."""
    return await _answer(services, request, OLLAMA_GENERATE)


async def chat(services: Services, request: Request) -> AnswerResponse | Response:
    """POST /api/chat."""
    return await _answer(services, request, OLLAMA_CHAT)


async def _answer(services: Services, request: Request, route: Route) -> AnswerResponse | Response:
    decoded = route.decode(await request.body())
    if decoded.action != "render":
        return await answer_decoded(services, request, decoded, route)
    asked = await ask_about(services, request, decoded, lambda runner, asked: runner.prompt(asked))
    prompt, tokens = asked.value
    name, now_ns = decoded.request.model, services.clock.time_ns()
    body = rendered_body(name, prompt, tokens, now_ns, is_chat=route is OLLAMA_CHAT)
    return asked.response(body, decoded.ignored)
