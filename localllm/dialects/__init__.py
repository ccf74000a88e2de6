"""Dialects: one module per API that clients speak, each two pure halves, JSON in and JSON out."""
