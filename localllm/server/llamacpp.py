"""The handlers of llama-server's dialect: completions, gaps, tokens, embeddings, and what it tells of itself.

llama-server has one model, so its clients name none, or any: meant_model says which that is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects import llamacpp, llamacpp_rerank, llamacpp_tokens
from localllm.dialects.body import Decoded, ignored_names
from localllm.dialects.llamacpp_encode import LlamaCppEncoder
from localllm.dialects.openai import decode_chat
from localllm.generation import Failed
from localllm.server import model_json
from localllm.server.choices import tokens_of
from localllm.server.embed import embed
from localllm.server.generate import Route, answer_decoded
from localllm.server.meant_model import find
from localllm.server.questions import ask, ask_about
from localllm.server.replies import failed_response, json_response
from localllm.server.services import Runner, RunningModel, Services
from localllm.server.streaming import AnswerResponse
from localllm.store.model import Model
from localllm.version import __version__


async def completion(services: Services, request: Request) -> AnswerResponse:
    """POST /completion and /completions."""
    return await _answer(services, request, llamacpp.decode_completion)


async def infill(services: Services, request: Request) -> AnswerResponse:
    """POST /infill."""
    return await _answer(services, request, llamacpp.decode_infill)


async def tokenize(services: Services, request: Request) -> Response:
    """POST /tokenize."""
    body = llamacpp_tokens.decode_tokenize(await request.body())
    model, ignored = await find(services, body.model or "", "completion")
    wanted, special, parse = llamacpp_tokens.pieces_of(body), body.add_special, body.parse_special

    async def question(runner: Runner) -> tuple[list[int], Sequence[bytes] | None]:
        tokens = await tokens_of(runner, wanted, add_special=special, parse_special=parse)
        return tokens, await runner.detokenize(tuple(tokens)) if body.with_pieces and tokens else None

    asked = await ask(services, request, model, question)
    return asked.response(llamacpp_tokens.encode_tokens(*asked.value), ignored)


async def detokenize(services: Services, request: Request) -> Response:
    """POST /detokenize."""
    name, tokens = llamacpp_tokens.decode_detokenize(await request.body())
    model, ignored = await find(services, name, "completion")
    asked = await ask(services, request, model, lambda runner: runner.detokenize(tokens))
    return asked.response(llamacpp_tokens.encode_text(asked.value), ignored)


async def apply_template(services: Services, request: Request) -> Response:
    """POST /apply-template: what the model's own template makes of a conversation, and the tokens of that."""
    decoded = decode_chat(await request.body(), needs_model=False)
    _, decoded = await _with_model(services, decoded)
    asked = await ask_about(services, request, decoded, lambda runner, asked: runner.prompt(asked))
    return asked.response(llamacpp_tokens.encode_prompt(*asked.value), decoded.ignored)


async def embedding(services: Services, request: Request) -> Response:
    """POST /embedding and /embeddings."""
    body = await request.body()
    wanted = llamacpp_tokens.decode_embedding(body)
    model, ignored = await find(services, wanted.model, "embedding")
    done = await embed(services, request, msgspec.structs.replace(wanted, model=model.name))
    told = ignored_names(body, llamacpp_tokens.BODIES["/embedding"])
    return done.response(llamacpp_tokens.encode_embedding(done.value), (*told, *ignored))


async def rerank(services: Services, request: Request) -> Response:
    """POST /rerank, /v1/rerank and the same with "ing"."""
    ranking = llamacpp_rerank.decode_rerank(await request.body())
    model, ignored = await find(services, ranking.request.model, "ranking")
    done = await embed(services, request, msgspec.structs.replace(ranking.request, model=model.name))
    name = model.name if ignored else ranking.request.model or model.name
    answer = llamacpp_rerank.encode_ranking(ranking, name, done.value)
    return done.response(answer, (*ranking.ignored, *ignored))


async def properties(services: Services, request: Request) -> Response:
    """GET /props: of the model that a request without a name would get. No path of the machine is told."""
    model, _ = await find(services, request.query_params.get("model", ""), "completion")
    entry = _running(services, model)
    context = _context(services, model, entry)
    return json_response(
        {
            "default_generation_settings": {"n_ctx": context, "params": _parameters(model)},
            "total_slots": entry.loaded.parallel if entry and entry.loaded else services.settings.num_parallel,
            "model_path": model.name,
            "model_alias": model.name,
            "chat_template": model.chat_template or "",
            "modalities": {"vision": False, "audio": False},
            "build_info": f"localllm {__version__}",
        }
    )


async def slots(services: Services, request: Request) -> Response:
    """GET /slots: as many as the model serves at once; requests have no slot of their own, so the first are busy.

    With `fail_on_no_slot` it is an error that all are.
    """
    model, _ = await find(services, request.query_params.get("model", ""), "completion")
    entry = _running(services, model)
    count = entry.loaded.parallel if entry and entry.loaded else services.settings.num_parallel
    context = _context(services, model, entry)
    active = entry.active if entry else 0
    if active >= count and request.query_params.get("fail_on_no_slot", "0") not in ("", "0"):
        return failed_response(Failed("no_slot", 503, "no slot available"), request.url.path)
    return json_response([{"id": one, "n_ctx": context, "is_processing": one < active} for one in range(count)])


async def health(services: Services, request: Request) -> Response:
    """GET /health: models are loaded when they are asked for, so that a daemon that answers is well."""
    return json_response({"status": "ok"})


async def _answer(services: Services, request: Request, decode: Callable[[bytes], Decoded]) -> AnswerResponse:
    model, decoded = await _with_model(services, decode(await request.body()))
    return await answer_decoded(services, request, decoded, _ROUTE, model)


async def _with_model(services: Services, decoded: Decoded) -> tuple[Model, Decoded]:
    model, ignored = await find(services, decoded.request.model, "completion")
    if decoded.request.model and not ignored:
        return model, decoded
    requests = [msgspec.structs.replace(one, model=model.name) for one in (decoded.request, *decoded.choices)]
    return model, replace(
        decoded, request=requests[0], choices=tuple(requests[1:]), ignored=(*decoded.ignored, *ignored)
    )


def _encoder(decoded: Decoded, services: Services) -> LlamaCppEncoder:
    return LlamaCppEncoder(decoded)


def _running(services: Services, model: Model) -> RunningModel | None:
    return next((entry for entry in services.scheduler.running() if entry.model.key == model.key), None)


def _context(services: Services, model: Model, entry: RunningModel | None) -> int:
    pool = entry.loaded.pool_tokens if entry and entry.loaded else None
    return model_json.served_context(model, services.settings.context_length, pool)


def _parameters(model: Model) -> dict[str, Any]:
    """What the Modelfile sets."""
    said: dict[str, Any] = msgspec.to_builtins(model.options)
    return said


_ROUTE = Route("generate", llamacpp.decode_completion, _encoder)
