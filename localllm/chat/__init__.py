"""Conversations to prompt text, and generated text back to content, thinking and tool calls."""
