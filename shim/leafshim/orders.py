"""What to launch: judged and planned before a clone, and what a container's cgroups need around it.

    judge     read the request and the description, plan; refuse what can be refused: nothing has been made
    make      the cgroups, with their limits: init is cloned into the leaf
    guard     the device rules: while init sets itself up, and before it is released

Rules:
1. What can be refused is refused before anything was made.
2. Whoever calls `make` has the cgroup in the checkpoint.
3. A container that shares the cgroups of the one it is nested in has cgroups of its own too, so that its processes can
   be told apart and killed; but no controller is asked for anything in them.
"""

import os
from typing import NamedTuple

from leafshim.api.shim import CreateOptions
from leafshim.api.task import CreateTaskRequest
from leafshim.bundle import Bundle
from leafshim.cgroup import delegation, devices
from leafshim.cgroup.hierarchy import Cgroup, find_mount
from leafshim.cgroup.isolator import WITH_FIGURES, Isolator, Settings
from leafshim.errors import AlreadyExists, InputError
from leafshim.launch.plan import Plan, plan_exec, plan_init
from leafshim.spec import DeviceRule, Resources, Spec, load_process


class Order(NamedTuple):
    """What to launch. `leaf`: the absolute path of the cgroup. `args`: the program's, for people."""

    plan: Plan
    leaf: str
    args: tuple[str, ...]


class InitOrder(NamedTuple):
    """Init, and the cgroups that it is to live in. `shares`: without limits of their own. `isolation`: the controllers
    to enable, limits or not. `owner`: the user that the leaf is handed over to, or None.
    """

    init: Order
    cgroup: Cgroup
    isolator: Isolator
    shares: bool
    limits: Settings
    isolation: tuple[str, ...]
    rules: tuple[DeviceRule, ...]
    owner: int | None

    def make(self) -> None:
        """Make the cgroups. Raises AlreadyExists, InputError, StateError, Unsupported, KernelError."""
        self.cgroup.create()
        self.cgroup.child("leaf").create()
        if self.shares:
            self.isolator.count_kills(self.isolation)
        else:
            self.isolator.prepare(self.limits, self.isolation)
        if self.owner is not None:
            delegation.delegate(self.cgroup.child("leaf"), self.owner)

    def guard(self) -> None:
        """Put the device rules in force. Raises InputError, StateError, Unsupported, KernelError."""
        devices.prepare(self.cgroup, self.rules)


def order_init(bundle: Bundle, spec: Spec, request: CreateTaskRequest, options: CreateOptions) -> InitOrder:
    """Init, as config.json has it. Raises InputError, Unsupported, AlreadyExists where somebody has a cgroup of that
    name, KernelError.
    """
    if spec.process.terminal != request.terminal:
        raise InputError("process.terminal: differs from the request's")
    if not spec.linux.cgroups_path:
        raise InputError("linux.cgroupsPath: missing")
    plan = plan_init(spec, request.rootfs, bundle.rootfs, parent_started=options.parent_start_time)
    resources = spec.linux.resources
    if options.shared_cgroup and resources != Resources(()):
        raise InputError(f"linux.resources: its cgroup is that of {options.shared_cgroup}")
    mount = find_mount()
    cgroup = Cgroup(os.path.join(mount, spec.linux.cgroups_path.lstrip("/")))
    isolator = Isolator(mount, cgroup)
    limits = isolator.plan(resources.limits)
    if cgroup.exists():  # it must not fall to our undoing
        raise AlreadyExists(f"cgroup {cgroup.path} exists already")
    order = Order(plan, cgroup.child("leaf").path, spec.process.args)
    shares = options.shared_cgroup != ""
    isolation = options.isolation
    enabled = tuple(isolation.controllers) if isolation is not None else WITH_FIGURES
    return InitOrder(order, cgroup, isolator, shares, limits, enabled, resources.devices, delegation.owner(spec))


def order_exec(spec: Spec, document: bytes, leaf: str, init_pidfd: int, *, terminal: bool) -> Order:
    """One more process: `document` is an OCI process, as JSON. Raises InputError, Unsupported."""
    process = load_process(document)
    if process.terminal != terminal:
        raise InputError("process.terminal: differs from the request's")
    return Order(plan_exec(spec, process, init_pidfd), leaf, process.args)
