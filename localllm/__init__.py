"""localllm: run GGUF language models on your own machine.

The packages, in the order a request meets them. Imports point down this list only.

    cli/             parse the command line (typer), print the answer (rich); a module per noun
    client.py        the HTTP client (httpx) the CLI uses; a public API too
    client_models.py  models as the client is told of them
    client_plans.py  plans as the client reads them
    connecting.py    the client's connections, and what goes wrong on the way
    server/          HTTP in, HTTP out, the wiring
    dialects/        JSON <-> generation.py's types, pure: ollama openai anthropic llamacpp framing
    store/           names, manifests, their files; pulls from Hugging Face's hub and Ollama's registry
    scheduler/       which models are loaded, who waits, who makes room
    placement/       how a model lies on this machine
    runner/          one child process per loaded model: protocol, parent side, child side
    chat/            text in, text out: template formats parser tools (runs in the child)
    engine/          continuous batching on llama.cpp: token ids in, text out (runs in the child)
    convert/         llama.cpp's converter of safetensors, between guards (runs in a child of its own)
    gguf_adapters.py what an adapter's header must say so that llama.cpp applies it to a model, whole
    gguf_rules.py    what a model's header must say so that llama.cpp does not abort on it
    gguf_memory_rules.py  the rules about what a model remembers
    gguf_single_rules.py  and what the loader of a single architecture asserts
    gguf_numbers.py  numbers and tensors of a header as the rules ask for them
    gguf_architectures.py  what llama.cpp expects of groups of architectures, as tables
    gguf.py          bounds-checked reader of a GGUF header: metadata and tensor table, never weights
    gguf_tokens.py   the tokens of a vocabulary, looked at once
    gguf_file.py     one open GGUF file: bounded reads, the same bytes throughout
    gguf_types.py    GGUF's numbers: tensor types, file types, value types
    modelfile.py     the Modelfile grammar
    creating.py      what a create is asked, and the events that tell how it goes
    pulling.py       what a download is asked, and the events that tell how it goes
    embedding.py     the one request for embeddings and its answer
    generation.py    the one request and the one event vocabulary
    errand.py        the child side of a process that does one thing
    failures.py      errors as the events that end a request, and back
    answer_rules.py  what an answer is held to, stage by stage
    load_options.py  how one model wants to be loaded
    config.py        Settings: the only reader of environment and config file
    template_syntax.py  which language a chat template is written in
    option_values.py  which values an option may have
    keys.py          API keys: made once, kept as hashes
    durations.py     lengths of time as people write them
    sizes.py         amounts of bytes as people write them
    tls.py           https by files: the daemon's certificate, and whom the commands trust
    paths.py         paths in texts: without the folders of this machine, and those that are no text
    errors.py        one error tree, drawn
    remote_errors.py errors as they arrive over HTTP
    logs.py          how a log line looks
    version.py       the version

One request: cli → client ── HTTP ──▶ server → dialects.decode → store.find → scheduler.lease → runner.handle
══ frames ══▶ runner.worker → chat.template → engine → chat.parser → events ══▶ dialects.encode → HTTP.
"""
