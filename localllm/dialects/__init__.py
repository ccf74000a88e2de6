"""Dialects: one module per API that clients speak, each two pure halves, JSON in and JSON out.

A name alone decodes bodies, NAME_encode turns events into answers, and other endings are one kind of request:

    ollama, ollama_encode; ollama_embed, ollama_create, ollama_pull
    openai, openai_encode; openai_completion, openai_completion_encode, openai_embed
    openai_responses, openai_responses_items, openai_responses_tools, openai_responses_encode
    anthropic, anthropic_tools, anthropic_encode
    llamacpp, llamacpp_encode, llamacpp_tokens, llamacpp_rerank
    plans                               /api/plan, ours alone

They share body and framing, the two halves' ground; openai_fields, constraint_fields and prompt_progress, fields that
several have; answers and answers_v1 describe what is answered, for the document of the API.
"""
