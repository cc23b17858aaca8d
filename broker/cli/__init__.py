"""The command line: each command parses its arguments, calls one thing, and prints what came of it."""
