"""Hooks of Schemathesis: most bodies are steered to a model that is here and to short answers, and so get through.

A body that nobody steered would name a model that does not exist, and test nothing but that.
"""

import schemathesis

RERANK_PATHS = ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking")
MODEL = "guide"
OTHER_MODELS = dict.fromkeys(
    ("/api/embed", "/api/embeddings", "/v1/embeddings", "/embedding", "/embeddings"), "bert-tiny"
) | dict.fromkeys(RERANK_PATHS, "bert-reranker-tiny")
LIMITS = {
    "/api/generate": ("options", "num_predict"), "/api/chat": ("options", "num_predict"),
    "/v1/chat/completions": ("max_completion_tokens",), "/chat/completions": ("max_completion_tokens",),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",), "/v1/messages": ("max_tokens",), "/completion": ("n_predict",),
    "/completions": ("n_predict",), "/infill": ("n_predict",),
}  # fmt: skip
MOST_TOKENS, MOST_CHOICES = 4, 2
MESSAGES = [{"role": "user", "content": "How do I pull a model?"}]
# What is asked, by path: with something else there, nothing else of a body would be looked at.
ASKED = {
    "/api/generate": {"prompt": "Hello"}, "/api/chat": {"messages": MESSAGES}, "/api/embed": {"input": ["a", "b"]},
    "/api/embeddings": {"prompt": "a"}, "/v1/chat/completions": {"messages": MESSAGES},
    "/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hello"}, "/v1/responses": {"input": "Hello"},
    "/v1/responses/input_tokens": {"input": "Hello"}, "/v1/messages": {"messages": MESSAGES},
    "/v1/messages/count_tokens": {"messages": MESSAGES}, "/v1/embeddings": {"input": "a"},
    "/completion": {"prompt": "Hello"}, "/completions": {"prompt": ["Hello", [1, 2]]},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "prompt": "c"}, "/tokenize": {"content": "Hello"},
    "/detokenize": {"tokens": [1, 2]}, "/apply-template": {"messages": MESSAGES}, "/embedding": {"content": "a"},
    "/embeddings": {"content": ["a"]}, "/api/copy": {"source": "guide"}, "/api/create": {"from": "guide"},
    **{path: {"query": "a", "documents": ["b", {"text": "c"}]} for path in RERANK_PATHS},
}  # fmt: skip


@schemathesis.hook
def before_call(context, case, kwargs):
    """Steer a case, whichever phase it is of."""
    if case.headers:
        case.headers.pop("x-request-timeout", None)  # its own 504 would be an answer as it should be
    body = case.body
    if not isinstance(body, dict):
        return
    path = case.operation.path
    if len(repr(body)) % 5:  # a fifth stays as it is, but for answers without an end
        steer(body, path)
    limit_answer(body, LIMITS.get(path, ()))


def steer(body, path):
    """Ask a model that is here for what it can do."""
    if len(repr(body)) % 2:
        body |= ASKED.get(path, {})
    body["model"] = OTHER_MODELS.get(path, MODEL)
    if isinstance(body.get("keep_alive"), int | float | str):
        body["keep_alive"] = "5m"  # 0 would have each request load the model anew
    for name in ("n", "best_of"):
        if isinstance(body.get(name), int) and body[name] > MOST_CHOICES:
            body[name] = MOST_CHOICES


def limit_answer(body, way):
    """Put a small number where the way leads, unless what is there is smaller, or refused anyway."""
    *outer, last = way or ("",)
    for name in outer:
        if body.get(name) is None:
            body[name] = {}
        body = body[name]
        if not isinstance(body, dict):
            return
    said = body.get(last)
    is_long = isinstance(said, int | float) and (-2 <= said < 0 or MOST_TOKENS < said < 2**31)
    if last and (said is None or is_long):
        body[last] = MOST_TOKENS
