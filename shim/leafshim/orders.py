"""What comes before a clone: read the description, check it, plan, make the cgroups, and limit them.

Rules:
1. What can be refused is refused before anything was made.
2. The cgroups are in the checkpoint before they are made.
"""

import os
from typing import NamedTuple

from leafshim.api.task import CreateTaskRequest
from leafshim.bundle import Bundle
from leafshim.cgroup import devices
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import Isolator
from leafshim.checkpoint import Checkpoint
from leafshim.errors import AlreadyExists, InputError, KernelError
from leafshim.launch.plan import Plan, plan_exec, plan_init
from leafshim.spec import load, load_process


class Order(NamedTuple):
    """What to launch. `leaf`: the absolute path of the cgroup. `args`: the program's, for people."""

    plan: Plan
    leaf: str
    args: tuple[str, ...]


def order_init(bundle: Bundle, request: CreateTaskRequest, checkpoint: Checkpoint, *, waits: bool) -> Order:
    """Init, as config.json has it. `checkpoint` is written with the cgroup's path once nothing is left to refuse.

    Raises InputError, Unsupported, AlreadyExists where somebody has a cgroup of that name, KernelError.
    """
    spec = load(_read(bundle.config))
    if spec.process.terminal != request.terminal:
        raise InputError("process.terminal: differs from the request's")
    if not spec.linux.cgroups_path:
        raise InputError("linux.cgroupsPath: missing")
    plan = plan_init(spec, request.rootfs, bundle.rootfs, waits=waits)
    mount = find_mount()
    cgroup = Cgroup(os.path.join(mount, spec.linux.cgroups_path.lstrip("/")))
    isolator = Isolator(mount, cgroup)
    limits = isolator.plan(spec.linux.resources.limits)
    if cgroup.exists():  # it must not fall to our undoing
        raise AlreadyExists(f"cgroup {cgroup.path} exists already")
    checkpoint._replace(cgroup=cgroup.path).write(bundle.checkpoint)
    leaf = cgroup.child("leaf")
    cgroup.create()
    leaf.create()
    devices.prepare(cgroup, spec.linux.resources.devices)
    isolator.prepare(limits)
    return Order(plan, leaf.path, spec.process.args)


def order_exec(bundle: Bundle, document: bytes, leaf: str, init_pidfd: int, *, terminal: bool) -> Order:
    """One more process: `document` is an OCI process, as JSON. Raises InputError, Unsupported, KernelError."""
    process = load_process(document)
    if process.terminal != terminal:
        raise InputError("process.terminal: differs from the request's")
    plan = plan_exec(load(_read(bundle.config)), process, init_pidfd)
    return Order(plan, leaf, process.args)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise KernelError.of(error, "read") from error
