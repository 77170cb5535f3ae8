"""The OCI runtime specification's config.json, checked wholly before anything happens.

    load(document) → Spec            a whole config.json
    load_process(document) → Process the process part alone, as an exec sends it
    load_resources(document) → Resources  the resources alone, as an update sends them

Rules:
- A field that is unknown, or that this build does not carry out, is refused by its path in the document
  (`linux.seccomp: not supported yet`). Nothing that was asked for is ever ignored. An empty value ("", [], {}, null)
  asks for nothing, so an empty field of either kind passes.
- A value of the wrong type or out of range is refused by its path (`process.args[1]: must be a string`).
- What needs two fields to judge is in `rules`: a hostname needs a UTS namespace, and so on.

Source: https://github.com/opencontainers/runtime-spec (config.md, config-linux.md), version 1.2.
"""

from leafshim.spec.load import load, load_process, load_resources
from leafshim.spec.model import (
    Capabilities,
    Device,
    DeviceRule,
    IdMapping,
    Linux,
    Mount,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    User,
)

__all__ = [
    "Capabilities",
    "Device",
    "DeviceRule",
    "IdMapping",
    "Linux",
    "Mount",
    "Process",
    "Resources",
    "Rlimit",
    "Root",
    "Spec",
    "User",
    "load",
    "load_process",
    "load_resources",
]
