"""leafd: the supervisor, a cache over what kernel, shims and checkpoints say."""
