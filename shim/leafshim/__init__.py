"""leafshim: the process that owns one container."""

__version__ = "0.1.0"
