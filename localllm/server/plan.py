"""POST /api/plan: how a model would lie here, or on the machine of a device file, before it is loaded or even pulled.

A model that is here is planned by its file's header; one that is not, by its header on the hub or in the registry, of
which a process of its own reads the first megabytes (store/peek). What is loaded now is not counted as free.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects.plans import PlanQuestion, decode_plan
from localllm.errors import ConfigError, DoesNotFitError, InvalidFieldError, ModelNotFoundError
from localllm.failures import error_from
from localllm.generation import Failed, Options, merge_options
from localllm.load_options import LoadOptions, merge_load_options
from localllm.placement.alternatives import alternatives_to
from localllm.placement.choose import Room
from localllm.placement.device_file import parse_devices
from localllm.placement.estimate import Estimate
from localllm.placement.wishes import Wishes, wishes_from
from localllm.pulling import AUTO_QUANT, PullRequest
from localllm.scheduler.planner import Reckoned, reckoned_from
from localllm.server.access import MAY_MANAGE
from localllm.server.plan_json import alternatives_json, machine_json, plan_json
from localllm.server.replies import json_response
from localllm.server.services import Services
from localllm.store.peeked import Peeked
from localllm.store.processes import lines_from

_PEEK = "localllm.store.peek"
_answer: msgspec.json.Decoder[Peeked | Failed] = msgspec.json.Decoder(Peeked | Failed)


async def make_plan(services: Services, request: Request) -> Response:
    """POST /api/plan."""
    question = decode_plan(await request.body())
    may_fetch = bool(request.scope.get(MAY_MANAGE))
    about, reckoned, wishes, others = await _model(services, question, may_fetch=may_fetch)
    room = await _room(services, question, reckoned.estimated, wishes)
    # In a thread: plans of several alternatives take 0.2 s.
    told = await asyncio.to_thread(_told, reckoned, room, wishes, others, str(about["quantization"]))
    return json_response({**about, "machine": machine_json(room), **told})


def _told(
    reckoned: Reckoned, room: Room, wishes: Wishes, others: tuple[tuple[str, int], ...], own: str
) -> dict[str, Any]:
    told: dict[str, Any]
    try:
        told = {"plan": plan_json(reckoned.plan(room, wishes))}
    except DoesNotFitError as error:
        told = {"plan": None, "error": error.message, "hint": error.hint, "missing": error.missing_bytes}
    left = reckoned.placed(room, wishes)[1]
    return {**told, "alternatives": alternatives_json(alternatives_to(reckoned.estimated, left, wishes, others, own))}


Asked = tuple[dict[str, Any], Reckoned, Wishes, tuple[tuple[str, int], ...]]


async def _model(services: Services, question: PlanQuestion, *, may_fetch: bool) -> Asked:
    """What is known of the model, what it takes, what is wished, its other quantisations.

    One that is not here is looked up for those who may pull it.
    """
    try:
        if question.quant:
            raise ModelNotFoundError(question.name)
        model = await services.find(question.name)
    except ModelNotFoundError:
        if not may_fetch:
            raise
        return await _remote_model(services, question)
    header = await services.in_store(services.store.loaded_header, model)
    draft = await services.in_store(services.store.draft_header, model)
    wishes = _wishes(services, question, model.options, model.load, embeds="embedding" in model.capabilities)
    about = {
        "model": model.name,
        "is_here": True,
        "quantization": model.quantization_level,
        "file_bytes": model.size_bytes,
    }
    return about, await asyncio.to_thread(reckoned_from, header, draft, wishes), wishes, ()


async def _remote_model(services: Services, question: PlanQuestion) -> Asked:
    wanted = await services.in_store(services.store.pull_request, question.name, question.quant)
    if wanted is None:
        raise ModelNotFoundError(question.name)
    if wanted.choice.lower() == AUTO_QUANT:
        message = "the quant 'auto' is chosen when a model is pulled; a plan shows what each would take"
        raise InvalidFieldError(message, field="quant", hint="leave the quant out")
    found = await peeked(wanted)
    wishes = _wishes(services, question, found.options, LoadOptions(), embeds=found.is_embedding_model)
    about = {
        "model": question.name,
        "is_here": False,
        "quantization": found.title,
        "file_bytes": found.size_bytes,
        "repository": found.repository,
        "remarks": list(found.remarks),
    }
    if wishes.overrides:
        raise InvalidFieldError("override_tensor needs the model's file: pull it first", field="parameters")
    return about, Reckoned(found.estimate, {}), wishes, tuple((size.label, size.size_bytes) for size in found.others)


async def peeked(wanted: PullRequest) -> Peeked:
    """What is known of a model before it is downloaded. Raises LocalllmErrors."""
    async with aclosing(lines_from(_PEEK, wanted)) as lines:
        found = _answer.decode(await anext(lines))
    if isinstance(found, Failed):
        raise error_from(found)
    return found


def _wishes(services: Services, question: PlanQuestion, options: Options, load: LoadOptions, *, embeds: bool) -> Wishes:
    options = merge_options(question.options, options)
    load = merge_load_options(question.load, load)
    return wishes_from(services.settings, options, load, embeds=embeds)


async def _room(services: Services, question: PlanQuestion, estimated: Estimate, wishes: Wishes) -> Room:
    try:
        machine = parse_devices(question.devices, "devices") if question.devices else None
    except ConfigError as error:  # here it is a client's file, not the daemon's
        raise InvalidFieldError(error.message, field="devices", hint=error.hint) from error
    return await services.planner.room(estimated, wishes, machine)
