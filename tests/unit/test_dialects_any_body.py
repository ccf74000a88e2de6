"""Whatever a client sends, a decoder answers with a request or with an error that is the client's."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.dialects import (
    anthropic,
    llamacpp,
    llamacpp_rerank,
    llamacpp_tokens,
    ollama,
    ollama_create,
    ollama_embed,
    openai,
    openai_completion,
    openai_embed,
    openai_responses,
)
from localllm.dialects.body import Decoded
from localllm.dialects.ollama_create import DecodedCreate
from localllm.embedding import EmbedRequest
from localllm.errors import LocalllmError


def decode_response(body: bytes) -> Decoded:
    """The body of /v1/responses, after no other."""
    return openai_responses.decode(openai_responses.read_body(body), body, (), lambda _: None).decoded


DECODERS = (
    decode_response,
    ollama.decode_chat, ollama.decode_generate, openai.decode_chat, ollama_embed.decode_embed,
    ollama_embed.decode_embeddings, openai_embed.decode_embeddings, ollama_create.decode_create,
    ollama_create.decode_copy, openai_completion.decode_completion,
    anthropic.decode_messages, anthropic.decode_count, llamacpp.decode_completion,
    llamacpp.decode_infill, llamacpp_tokens.decode_detokenize, llamacpp_tokens.decode_embedding,
    llamacpp_rerank.decode_rerank,
)  # fmt: skip
WORDS = (
    "model", "messages", "role", "content", "tool_calls", "function", "name", "arguments", "tools", "type", "text",
    "options", "stop", "seed", "temperature", "num_ctx", "logit_bias", "keep_alive", "format", "think", "stream",
    "response_format", "json_schema", "schema", "max_tokens", "n", "user", "assistant", "tool", "json", "prompt", "raw",
    "input", "dimensions", "encoding_format", "logprobs", "top_logprobs", "from", "files", "parameters", "license",
    "quantize", "requires", "num_parallel", "kv_layout", "source", "destination",
    "suffix", "echo", "best_of", "system", "thinking", "tool_choice", "tool_use", "tool_result", "tool_use_id",
    "input_schema", "output_config", "input_prefix", "input_suffix", "input_extra", "n_predict", "tokens",
    "instructions", "output", "call_id", "reasoning", "effort", "summary", "include", "message", "function_call",
    "function_call_output", "custom", "custom_tool_call", "namespace", "item_reference", "truncation", "metadata",
)  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 1e308])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=15,
)


def check(body: bytes) -> None:
    statuses = set()
    for decode in DECODERS:
        try:
            assert isinstance(decode(body), Decoded | EmbedRequest | DecodedCreate | llamacpp_rerank.Ranking | tuple)
        except LocalllmError as error:
            statuses.add(error.status)
    assert statuses <= {400, 404}


@given(st.dictionaries(st.sampled_from(WORDS), values, max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_json_object_is_a_request_or_a_bad_one(fields):
    body = json.dumps({"model": "m", **fields}).encode()
    check(body)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "seed",
                "top_k",
                "temperature",
                "stop",
                "num_ctx",
                "logit_bias",
                "mirostat",
                "dry_sequence_breakers",
                "top_n_sigma",
            ]
        ),
        values,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_option_value_is_a_request_or_a_bad_one(options):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "options": options, **options})
    check(body.encode())


@given(st.binary(max_size=40), st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_request_or_a_bad_one(head, tail):
    for body in (
        head,
        b'{"model":"m","prompt":"' + head + b'"}',
        b'{"model":"m","tools":[' + head + b"]}",
        head + tail,
    ):
        check(body)


@given(st.dictionaries(st.sampled_from(["num_parallel", "kv_layout", "stream_slowdown", "top_k", "stop"]), values))
@settings(max_examples=100, deadline=None)
def test_any_value_of_a_load_parameter_is_a_request_or_a_bad_one(parameters):
    check(json.dumps({"model": "m", "from": "x", "parameters": parameters}).encode())
