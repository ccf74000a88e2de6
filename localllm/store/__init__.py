"""Models on disk: names, manifests, and the files they point at.

What happens to a name, in order:

    names → store → model                           what a name stands for; bundled comes along, catalogue can be pulled
    registered → manifest, layers                   what is kept of a name, laid over what it is FROM
    remembered                                      names that were found before, as long as nothing has changed
    files, adapters, drafts, headers, checks, blobs files behind FROM, ADAPTER and DRAFT: found, read, refused; those
                                                    that localllm keeps itself
    peek → remote_header, peeked                    looking at a model before it is pulled
    pull → source: hub, registry (image) → download → pulled, ledger                    pulling it, in a process
    hub → hub_listing, repository → quants          what the hub says, which of its files make the model that is asked
    hub_folder, answers                             the cache that other tools share; what a server's answer means
    create → quantize → processes                   making one; writable says beforehand whether it can be kept
    convert → safetensors, peft, converter          of folders of safetensors, models and adapters: looked at, and
                                                    llama.cpp's converter, which fetch_converter gets once, in a process
    adopt → finding, finding_ollama → found         naming another tool's
    usage → cleaning                                who uses what of the disk

Of these hub, registry and fetch_converter alone speak to a network.
"""
