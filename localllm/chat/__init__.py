"""Conversations to prompt text, and generated text back to content, thinking and tool calls.

    a conversation to text     voices → templates → template (Jinja: sandbox) or go_template; conversation, demands, effort
    what answers look like     formats → probes; thinking, channels, calls, probing      as data: syntax
    an answer to events        parser → marked or messages → readers, elements, tools, said
    what an answer is held to  constraint → call_grammar, notation, lark, json_schema …
    a template, judged         lint, in the process that check is
"""
