"""Which models are loaded, who waits for them, and who makes room."""
