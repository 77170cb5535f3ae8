"""The messages and methods that leafd speaks: each module mirrors the .proto file beside it."""
