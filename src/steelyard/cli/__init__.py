"""The command line: one file per command, each a thin shell over a library function of the same name.

Here is only what is about a terminal: options, files that name a model, tables, exit codes. Exit codes are
0 for done, 2 for an error that says its fix, 130 after Ctrl-C.
"""

from steelyard.cli.app import main as main
