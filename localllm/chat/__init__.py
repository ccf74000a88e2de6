"""Conversations to prompt text, and generated text back to content, thinking and tool calls.

What comes of a request, in order:

    voices → templates → template (Jinja, in the sandbox) or go_template     a conversation to text
                         openings                                            what it lacks where it never asks
    formats → probes, thinking, channels, calls, probing → syntax            what answers look like, found and as data
    constraint → call_grammar, channel_calls, gbnf, lark, json_schema        what an answer is held to; in call_grammar:
                 tag_values, element_values, notation, branches, raw_text    arguments as each family writes them;
                 lark_texts → lark_grammar, lark_quoting → lark_tree         a client's grammar for a text among these
    parser → marked or messages → reader, readers, elements, tools, said     an answer to events; in readers: gemma,
                                  early, cursor, logprobs                    python_calls, values, programs

What a template wants of a conversation is demands', effort's and conversation's business; known_templates has those of
files without one; lint judges one, in check's process. template_code is what one is compiled to, and lengths count what
it may make.
"""
