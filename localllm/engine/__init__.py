"""Continuous batching on llama.cpp: token ids in, tokens and text out. Runs in a child process only.

A request's way through a step, in order:

    engine (policy) → queue → roster → sequence          who waits, who runs, and one request's state
    prefix_cache, memory, shelf → pool, cells            what is there of its prompt already, and where it lies
    layout, pace, threads → batch → decoding             how, how much and what to compute next; then compute it
    sampling, adjustments, shortlist, constrained (grammar), infill      which tokens come
    speculation, draft_model                             which are guessed before
    detokenizer, logprobs, stats                         what is told of them
    tokens                                               arrays of token ids

Behind the seam `backend`: `fake` for tests, and llama with its parts, llama_model, llama_adapters, llama_parameters,
llama_rows (fillers), llama_memory, llama_samplers, llama_backends, llama_breakdown, llama_log. Vectors are embedding's
and llama_embedding's.
Processes of their own: probe (does it run here?), measure (what would a model take?), survey (which devices are
there?), llama_draft (can this model guess for that one?) and llama_quantize (weights in another type).
"""
