"""How a model lies on this machine: threads, pool of KV cells, parallel sequences."""
