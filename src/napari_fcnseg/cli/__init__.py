"""The command line: parses, calls the public verbs, prints, and sets exit codes."""
