"""The command line: parse it, call the daemon through the client, print the answer."""
