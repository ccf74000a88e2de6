"""How a model lies on this machine: which layers on which device, the pool of KV cells, parallel sequences.

From what is known to a plan, in order:

    devices (nvml), device_file, learned → budgets      what may be taken of each device
    wishes                                              what people say about it
    estimate: weights, cache (windows), compute         what a model takes, layer by layer, in a context of some shape;
                                                        with its adapters; compute plays the tape that
                                                        graph and graph_mixers write
    plan → pool, cell_layout, choose → arrange          the best arrangement that fits; overrides: tensors told where
    draft                                               the draft model beside it, before the model itself
    layout                                              the same in llama.cpp's terms
    confirm                                             held against llama.cpp's own figures
    reasons, refusal, speed, demand, alternatives       what is said about a plan, or instead of one
    quant                                               which quantisation of a model to pull

All is pure but what looks at the machine (devices, nvml) or keeps a file (learned).
"""
