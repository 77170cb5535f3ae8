"""leafctl, the command line.

The rules:
1. Every failure is one line on standard error, `leafctl: what failed: why`, and a status that is not zero; never a
   traceback. 2 is for wrong usage, 1 for everything else; `run` and `exec` keep to 125, 126 and 127, as the other
   numbers are the workload's own.
2. `--json` prints one JSON value, or one a line for streams. Nothing else goes to standard output.
3. A command's module is imported when the command is used: `leafctl ps` does not pay for terminals, nor `--help` for
   anything (`command.py`).
"""


def main() -> int:
    """The entry point of `leafctl`. Returns its exit status."""
    try:
        from leafd.cli.command import execute

        return execute()
    except KeyboardInterrupt:  # within an import
        return 130
