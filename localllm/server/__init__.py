"""HTTP in, HTTP out, and the wiring of everything behind it."""
