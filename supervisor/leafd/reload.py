"""What SIGHUP changes while leafd runs: the log level. Every other setting is part of what runs already.

A configuration that is wrong by now is told in one line, and changes nothing; `leafd --check-config` tells it before.
"""

import logging

from leafd.config import Config, from_arguments
from leafshim.errors import LeafError

log = logging.getLogger("leafd")


def set_log_level(config: Config) -> None:
    """By `verbose`."""
    logging.getLogger().setLevel(logging.INFO if config.verbose else logging.WARNING)


def reload_log_level() -> None:
    """Read flags and files again."""
    try:
        set_log_level(from_arguments())
    except LeafError as error:
        log.warning("%s; the settings stay as they are", error)
