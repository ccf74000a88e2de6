"""The command line: parse it, call the daemon through the client, print the answer.

main → commands (the table of verbs) → shortcut, else typer     a line of words to a function's parameters
daemonize                                                       find the daemon, or start one
run, repl (dialogue), models, running, plan, create (register), pull, adopt, search, disk, key, doctor,
template_check, serve                                           the commands: a module per noun
arguments                                                       what several of them are told alike
answer, sheet, plan_sheet, progress, wordwrap, figures → output what people are shown
"""
