"""The command line: parse it, call the daemon through the client, print the answer.

What comes of a line of words, in order:

    main → commands → shortcut, else typer              the table of verbs, and a line as a function's parameters
    arguments                                           what several commands are told alike
    run, repl (dialogue), models, running, plan, create, pull, adopt, search, disk, key, doctor, template_check, serve
                                                        the commands: a module per noun
    daemonize                                           find the daemon, or start one
    register                                            a GGUF file by its path gets a name
    answer, sheet, plan_sheet, progress, wordwrap, figures → output     what people are shown

All but register, key, search, doctor and serve is asked of the daemon.
"""
