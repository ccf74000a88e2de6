"""What a request says about itself outside of its body: who asks, how urgently, and how long it is willing to wait.

    who     the API key, if it has a name; else the address, the program (User-Agent) and what the dialect or a front
            end says of its user or session. Places are shared by clients: see scheduler/fairness
    class   X-Localllm-Priority: interactive (unless the dialect says otherwise), agent or batch
    time    X-Request-Timeout: seconds from the arrival to the end of the answer

Who a client is decides nothing but its turn, so that what it says of itself is believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from starlette.requests import Request

from localllm.errors import InvalidFieldError
from localllm.generation import Priority
from localllm.scheduler.state import Requester
from localllm.server.access import HEADERS, HOLDER
from localllm.server.keyring import Holder

PRIORITY_HEADER = "x-localllm-priority"
TIMEOUT_HEADER = "x-request-timeout"
# Ours; Open WebUI's, which is one program in front of many people.
SESSION_HEADERS = ("x-localllm-client", "x-openwebui-user-id")
LONGEST_CLIENT = 200


@dataclass(frozen=True, slots=True)
class Terms:
    """`timeout_seconds` None is as long as it takes."""

    requester: Requester
    timeout_seconds: float | None = None


def terms_of(request: Request, session: str = "", priority: Priority = "interactive") -> Terms:
    """The terms of `request`, whose body names `session` and `priority`. Raises InvalidFieldError for a bad header."""
    address = request.client.host if request.client is not None else ""
    headers: Mapping[str, str] = request.scope[HEADERS]
    holder: Holder | None = request.scope[HOLDER]
    client = f"key {holder.name}" if holder is not None and holder.name else client_of(address, headers, session)
    return Terms(Requester(client, _priority(headers, priority)), _timeout_seconds(headers))


def client_of(address: str, headers: Mapping[str, str], session: str) -> str:
    """The name of a client without an API key of its own. `headers` are by names in lower case."""
    program = headers.get("user-agent", "").partition("/")[0].partition(" ")[0]
    sessions = (headers.get(name, "") for name in SESSION_HEADERS)
    return " ".join(part for part in (address, program, *sessions, session) if part)[:LONGEST_CLIENT]


def _priority(headers: Mapping[str, str], otherwise: Priority) -> Priority:
    text = headers.get(PRIORITY_HEADER)
    if text is None:
        return otherwise
    classes: tuple[Priority, ...] = get_args(Priority)
    for one in classes:
        if one == text.strip().lower():
            return one
    raise InvalidFieldError(f"X-Localllm-Priority is {text!r}, but must be {', '.join(classes)}")


def _timeout_seconds(headers: Mapping[str, str]) -> float | None:
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidFieldError(f"X-Request-Timeout is {text!r}, but must be a number of seconds above 0")
    return seconds
