"""HTTP in, HTTP out, and the wiring of everything behind it. One event loop.

From a connection to an answer, in order:

    daemon                              builds everything and ends it; listener opens its socket
    connections → app → access (keyring), bodies, limits       who may come, and how much
    app's table of routes → generate, embed, plan, questions, manage, create, pull      the handlers
    ollama, anthropic, llamacpp, responses     handlers of one dialect alone
    services, terms, meant_model        what a handler may use, and what a request says of itself
    streaming, waiting, choices, progress → replies     answers on their way
    model_json, plan_json               models and plans as JSON
    pulls, responses_store, activity    what outlives a request
    metrics, energy, traces             what is counted and told
    openapi (operations, schemas)       the document of the API
    web/                                the pages at / and /docs
"""
