"""Models on disk: names, manifests, and the files they point at.

names → store → model               what a name stands for; bundled comes along, catalogue can be pulled
registered → manifest               what is kept of a name
files, headers, checks, blobs       files behind FROM: found, read, refused; those that localllm keeps itself
pull → repository → source: hub, or registry (image) → download → pulled, ledger        bringing a model, a process
peek, peeked, fitting               looking at one first
create → layers, quantize → processes           making one
adopt → finding, finding_ollama → found         naming another tool's
usage → cleaning                    who uses what of the disk
"""
