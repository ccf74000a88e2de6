"""What is asked of the engine in the tests of its equalities: the same requests in ever other company.

A scenario (see engine_child) is a dictionary; `same_as` of a request is the number of the request of `alone` that asks
for the same, and must get the same; without it, it only must end well. Prompts are made so that prefixes are shared,
chunks are cut, and lengths differ.
"""

from __future__ import annotations

import random
from typing import Any

Requests = list[dict[str, Any]]
Scenario = dict[str, Any]
SEQUENCES = 6
LONGEST = 3
SHARED_TOKENS = 150
FORK_AT = 200  # where the last request leaves the longest prompt
NEW_TOKENS = 16
STREAM_TOKENS = 1024  # what a stream must hold to be chosen; one request of `outgrown` needs more
LOW, HIGH = 1, 0  # priorities
ALONE = {"keeps_prefixes": False, "speculates": False}


def random_tokens(seed: int, count: int) -> list[int]:
    """Token ids that no vocabulary of the tests uses for itself."""
    return random.Random(seed).choices(range(300, 2300), k=count)


def six_requests() -> Requests:
    """Three that begin alike, a long one, a short one and a very short one."""
    shared = random_tokens(1, SHARED_TOKENS)
    prompts = [[*shared, *random_tokens(seed, count)] for seed, count in ((2, 20), (3, 50), (4, 3))]
    prompts += [random_tokens(seed, count) for seed, count in ((5, 300), (6, 33), (7, 2))]
    requests: Requests = [{"prompt": prompt, "new_tokens": NEW_TOKENS} for prompt in prompts]
    for number in range(3):
        requests[number]["message_starts"] = [SHARED_TOKENS]
    requests[LONGEST]["message_starts"] = [100, FORK_AT]
    return _numbered(requests)


def two_more() -> Requests:
    """The second turn of the first request, and one that begins as the longest does."""
    fork = [*six_requests()[LONGEST]["prompt"][:FORK_AT], *random_tokens(8, 30)]
    requests: Requests = [
        {"continues": 0, "prompt": random_tokens(9, 5), "new_tokens": NEW_TOKENS},
        {"prompt": fork, "new_tokens": NEW_TOKENS},
    ]
    return _numbered(requests, SEQUENCES)


def six_questions() -> Requests:
    """As `six_requests`, in words and in the form of a chat, for a model that can speak."""
    long_system = " ".join(f"You answer questions about localllm, part {part}." for part in range(12))
    texts = [_chat(long_system, question) for question in ("What is GGUF?", "How do I stop a model?", "Hello!")]
    texts += [
        _chat(f"{long_system} Be brief. {long_system}", "What is localllm?"),
        _chat("", "Why is it so slow?"),
        "How",
    ]
    return _numbered([{"text": text, "new_tokens": NEW_TOKENS} for text in texts])


def two_more_questions() -> Requests:
    """As `two_more`, in words."""
    second_turn = {"continues": 0, "text": "<|im_end|>\n" + _chat("", "And a model?"), "new_tokens": NEW_TOKENS}
    text: str = six_questions()[LONGEST]["text"]
    fork = {"text": text[: len(text) // 2] + " Which models do I have?", "new_tokens": NEW_TOKENS}
    return _numbered([second_turn, fork], SEQUENCES)


def _chat(system: str, question: str) -> str:
    turns = [("system", system)] if system else []
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in (*turns, ("user", question)))
    return f"{text}<|im_start|>assistant\n"


def _numbered(requests: Requests, first: int = 0) -> Requests:
    return [request | {"same_as": first + number} for number, request in enumerate(requests)]


def one_by_one(requests: Requests) -> Requests:
    """Each arrives when the one before has ended."""
    return [request | {"after": [number - 1] if number else []} for number, request in enumerate(requests)]


def with_gaps(requests: Requests) -> Scenario:
    """Every second one leaves early; its slot lies idle between those that go on, and then is used again."""
    uneven = [one | ({"cancel_after": 9} if number % 2 else {}) for number, one in enumerate(requests)]
    later = [one | {"after": list(range(len(requests)))} for one in requests]
    return {"requests": [*uneven, *later]}


def long_turns(requests: Requests) -> Requests:
    """The longest, and two turns behind it that are shorter than a tile of attention."""
    said: Requests = [{"prompt": random_tokens(12 + at, 45)} for at in (0, 1)]
    if "text" in requests[LONGEST]:
        questions = ("How do I run a model, how do I stop it, and", "Where are my models, and how do I remove")
        said = [{"text": f"<|im_end|>\n{_chat('', f'{question} {3 * question} one?')}"} for question in questions]
    turns = [one | {"continues": at, "new_tokens": 4} for at, one in enumerate(said)]
    return one_by_one([requests[LONGEST], *turns])


def laid_out_anew(requests: Requests) -> Scenario:
    """The requests again and again, while others share so much that they get one pool, and then so little that they get
    streams: what was computed in one layout is taken over in the other."""
    shared = random_tokens(11, 1200)
    alike = [{"prompt": [*shared, 300 + at], "new_tokens": 4} for at in range(SEQUENCES)]
    unlike = [{"prompt": random_tokens(20 + at, 900), "new_tokens": 4} for at in range(SEQUENCES)]
    everyone: Requests = []
    for group, is_together in ((requests, False), (alike, True), (requests, False), (unlike, True), (requests, False)):
        before = list(range(len(everyone)))
        for number, one in enumerate(group, len(before)):
            everyone.append(one | {"after": before if is_together else list(range(number))})
    config = {"layout": "auto", "pool_tokens": SEQUENCES * 2048}
    return {"requests": everyone, "config": config, "policy": {"layout_change_pays": 0.0}}


def all_scenarios(requests: Requests, more: Requests) -> dict[str, Scenario]:
    """By name; `alone` is what the others are compared with. `more` come after all of `requests`."""
    everyone = one_by_one([*requests, *more])
    outranked = [requests[number] | {"priority": LOW} for number in (0, LONGEST)]
    outranked += [requests[number] | {"priority": HIGH, "step": 8} for number in (1, 4)]
    leaving = [requests[number] | {"step": 2, "cancel_after": 3} for number in (1, LONGEST)]
    broken_off = requests[LONGEST] | {"step": 9, "cancel_after": 0, "is_interrupted": True}
    interrupted = [*requests[:LONGEST], *requests[LONGEST + 1 :], broken_off]
    two = {"max_sequences": 2}
    outgrown = {"layout": "auto", "pool_tokens": SEQUENCES * STREAM_TOKENS}
    grows_out = {"prompt": random_tokens(10, STREAM_TOKENS + 20), "new_tokens": NEW_TOKENS, "step": 8}
    return {
        "alone": {"requests": everyone, "policy": ALONE},
        "guessed": {"requests": everyone, "policy": ALONE | {"speculates": True}},
        "drafted": {"requests": everyone, "policy": ALONE | {"speculates": True}, "draft": "itself"},
        "drafted, astray": {"requests": everyone, "policy": ALONE | {"speculates": True}, "draft": "astray"},
        "together": {"requests": requests},
        "staggered": {"requests": [*(one | {"step": 3 * at} for at, one in enumerate(requests)), *leaving]},
        "with gaps": with_gaps(requests),
        "interrupted": {"requests": interrupted, "policy": {"keeps_prefixes": False, "stretch": 100.0}},
        "again": {"requests": one_by_one([*requests, *requests, *more])},
        "shelved": {"requests": one_by_one([*requests, *requests, *more]), "policy": {"shelf_tokens_least": 20}},
        "outranked": {"requests": outranked, "config": two},
        "outranked, computed again": {"requests": outranked, "config": two, "policy": {"saved_bytes_most": 0}},
        "outgrown": {"requests": [*requests, grows_out], "config": outgrown},
        "long turns, alone": {"requests": long_turns(requests), "policy": ALONE},
        "long turns": {"requests": long_turns(requests)},
        "laid out anew": laid_out_anew(requests),
        "crowded": {"requests": [*requests, *requests], "config": {"pool_tokens": 512}},
    }
