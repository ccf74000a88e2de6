"""Conversations to prompt text, and generated text back to content, thinking and tool calls.

What comes of a request, in order:

    voices → templates → template (Jinja, in the sandbox) or go_template     a conversation to text
    formats → probes, thinking, channels, calls, probing → syntax            what answers look like, found and as data
    constraint → call_grammar, notation, lark, json_schema …                 what an answer is held to
    parser → marked or messages → readers, elements, tools, said             an answer to events

What a template wants of a conversation is demands' and conversation's business; lint judges one, in check's process.
"""
