"""What tests do with an attached client."""

from leafd.session import Session


def end_input(session: Session) -> None:
    """Close the input, and read whatever comes until the process has ended."""
    session.close_stdin()
    for _ in session:
        pass
