"""Continuous batching on llama.cpp: token ids in, tokens and text out."""
