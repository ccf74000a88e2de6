"""Go's text/template, as far as the chat templates of Ollama's library use it: read, then evaluated within bounds.

    lexer      source → text and tokens, blanks trimmed where "{{-" and "-}}" say so
    nodes      the syntax tree
    parser     tokens → nodes; what is not known is refused by its name and line
    values     Go's truth, printing, comparing and JSON, for Python values
    functions  what a template may call
    evaluator  nodes and data → text

Nothing here knows messages or tools: go_template.py makes them into plain values.
"""
