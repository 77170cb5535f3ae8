"""All controllers of one container: its limits from the description to the kernel's files.

    plan      before anything exists: limits → settings, checked, their controllers there
    prepare   the cgroups exist: enable the controllers, write the settings
    update    while it runs: the same with the files as they are, after room was made; all or nothing
    usage     figures of every controller that is enabled
    status    the limits in force

Rules:
1. What can be refused is refused by `plan`, before anything was made; what only the cgroup can tell (a file that this
   kernel lacks, a device that is not there) by `prepare`, and the launch undoes what there is.
2. A controller is enabled when the container is limited by it, or has figures of it. One that the host lacks is no
   error until somebody asks for its limits.
3. Limits are in the non-leaf, before init is cloned into the leaf below.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

from leafshim.cgroup import protection
from leafshim.cgroup.controller import Controller, InForce, enable_down
from leafshim.cgroup.core import Core
from leafshim.cgroup.cpu import CpuController
from leafshim.cgroup.cpuset import CpusetController
from leafshim.cgroup.figures import Figures
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.cgroup.hugetlb import HugetlbController
from leafshim.cgroup.io import IoController
from leafshim.cgroup.memory import MemoryController
from leafshim.cgroup.misc import MiscController
from leafshim.cgroup.pids import PidsController
from leafshim.cgroup.rdma import RdmaController
from leafshim.cgroup.values import DEFAULT, File, Setting
from leafshim.errors import InputError, KernelError, Unsupported
from leafshim.spec.resources import Limits

CONTROLLERS: tuple[Controller, ...] = (
    Core(),
    CpuController(),
    CpusetController(),
    IoController(),
    PidsController(),
    HugetlbController(),
    RdmaController(),
    MiscController(),
    MemoryController(),  # the last to be written: too low a limit kills at once
)

WITH_FIGURES = tuple(controller.name for controller in CONTROLLERS if controller.figures)
"""Those that every container has enabled, unless somebody says otherwise."""

_BY_NAME = {controller.name: controller for controller in CONTROLLERS}
_VALUE_REFUSED = (errno.EINVAL, errno.ENODEV, errno.ERANGE, errno.ENXIO)


Settings: TypeAlias = tuple[Setting, ...]


def translate(limits: Limits, in_force: InForce | None = None) -> Settings:
    """What to write for these limits, in order, checked. `in_force`: the files as they are; None for a new container.

    Raises InputError, for limits at odds too.
    """
    unified = [setting for file, value in limits.unified for setting in _unified(file, value)]
    found: list[Setting] = []
    for controller in CONTROLLERS:
        asked = [*controller.settings(limits, in_force or _default)]
        asked += [setting for setting in unified if setting.controller == controller.name]
        found += [Setting(file, rule(file).check(file, value)) for file, value in asked]
    taken = set()
    for setting in found:
        if not rule(setting.file).keyed and setting.file in taken:
            raise InputError(f"linux.resources.unified.{setting.file}: another limit sets it already")
        taken.add(setting.file)
    return tuple(found)


def _default(file: str) -> str:
    return rule(file).default


class Isolator:
    """The isolator of one container's `cgroup`, its non-leaf, below the cgroup2 file system at `mount`."""

    def __init__(self, mount: str, cgroup: Cgroup) -> None:
        self.mount = mount
        self.cgroup = cgroup

    def plan(self, limits: Limits) -> Settings:
        """What to write for the limits of a new container.

        Raises InputError for a value, Unsupported for a limit whose controller the host lacks, KernelError.
        """
        settings = translate(limits)
        self._require(settings)
        return settings

    def prepare(self, settings: Settings, isolation: Collection[str] = WITH_FIGURES) -> None:
        """Enable what is needed and write the settings. `isolation`: the controllers to enable where the host has them,
        limits or not. Raises InputError, StateError, Unsupported, KernelError."""
        there = Cgroup(self.mount).controllers() if isolation else frozenset()
        self._write(settings, {*there} & {*isolation} | {setting.controller for setting in settings})

    def count_kills(self, isolation: Collection[str]) -> None:
        """Enable for a container without limits of its own what tells whether an OOM kill was one of its processes, and
        nothing else; nothing where that is not in `isolation`, or not on the host. Raises StateError, KernelError."""
        name = MemoryController.name
        if name in isolation and name in Cgroup(self.mount).controllers():
            enable_down(self.mount, self.cgroup, [name])

    def update(
        self, limits: Limits, *, kill: bool = False, accepted: Callable[[Settings], None] | None = None
    ) -> Iterator[None]:
        """Change the limits of a running container: those that are asked for, all of them or none.

        Iterate to the end: it gives way between steps that take their time. A memory limit below what is in use makes
        the kernel reclaim; what cannot be reclaimed is left to the OOM killer with `kill`, and refused without.
        `accepted` gets what was written; when it raises, that is taken back. Raises InputError, StateError with the
        figures, Unsupported, KernelError.
        """
        settings = self._plan_update(limits)
        if not kill or limits.memory.check_before_update:
            for controller in CONTROLLERS:
                yield from controller.make_room(self.cgroup, settings)
        settings = self._plan_update(limits)  # another update may have come in between
        undo = self._write(settings, {setting.controller for setting in settings})
        try:
            if accepted is not None:
                accepted(settings)
        except BaseException:
            self._restore(undo)
            raise

    def _plan_update(self, limits: Limits) -> Settings:
        settings = translate(limits, self._in_force)
        self._require(settings)
        return settings

    def usage(self) -> Figures:
        """controller → its figures, "cgroup" for those that need none; what fails or is not enabled is left out.

        Empty when the cgroup is gone.
        """
        figures: Figures = {}
        for controller in CONTROLLERS:
            try:
                found = controller.usage(self.cgroup)
            except KernelError:
                continue
            if found:
                figures[controller.name or "cgroup"] = found
        return figures

    def status(self) -> dict[str, str]:
        """The limits in force: interface file → what it holds; empty when the cgroup is gone."""
        found: dict[str, str] = {}
        for controller in CONTROLLERS:
            try:
                found |= controller.status(self.cgroup)
            except KernelError:
                continue
        return found

    def recover(self) -> None:
        """Check that what was set up is there. Raises StateError, KernelError."""
        for controller in CONTROLLERS:
            controller.recover(self.cgroup)

    def _require(self, settings: Settings) -> None:
        there = Cgroup(self.mount).controllers() if settings else frozenset()
        for setting in settings:
            if setting.controller not in there:
                raise Unsupported(f"{setting.file}: this host has no cgroup2 controller {setting.controller}")

    def _in_force(self, file: str) -> str:
        return self.cgroup.read(file).strip() if self.cgroup.has(file) else rule(file).default

    def _write(self, settings: Settings, controllers: set[str]) -> list[Setting]:
        """All or none of them; returns what was there before."""
        if controllers:
            enable_down(self.mount, self.cgroup, controllers)
        before: list[Setting] = []
        try:
            for setting in settings:
                undo = self._undo(setting)
                _write_one(self.cgroup, setting)
                before.append(undo)
            protection.protect(self.mount, self.cgroup, settings)
        except BaseException:
            self._restore(before)
            raise
        return before

    def _restore(self, before: list[Setting]) -> None:
        for undo in reversed(before):
            _write_one(self.cgroup, undo)
        protection.protect(self.mount, self.cgroup, before)

    def _undo(self, setting: Setting) -> Setting:
        """What makes a file as it is now."""
        if not self.cgroup.has(setting.file):
            raise Unsupported(f"{setting.file}: this kernel does not have it")
        now = protection.asked(self.cgroup, setting.file)
        if not rule(setting.file).keyed:
            return Setting(setting.file, now.strip())
        same = (line for line in now.splitlines() if line.split(" ", 1)[0] == setting.key)
        return Setting(setting.file, next(same, f"{setting.key} {rule(setting.file).default}"))


def rule(file: str) -> File:
    """How a limit's file is written. Raises InputError for any other file."""
    controller = _BY_NAME.get(file.partition(".")[0])
    found = controller.rule(file) if controller is not None else None
    if found is None:
        raise InputError(f"linux.resources.unified.{file}: is no limit that leafd knows")
    return found


def _unified(file: str, value: str) -> Iterator[Setting]:
    """`default` is whatever a new cgroup has; a keyed file takes any number of lines, and has defaults of its own."""
    if rule(file).keyed:
        yield from (Setting(file, line.strip()) for line in value.splitlines())
    else:
        yield Setting(file, rule(file).default if value.strip() == DEFAULT else value.strip())


def _write_one(cgroup: Cgroup, setting: Setting) -> None:
    try:
        cgroup.write(setting.file, setting.value + "\n")  # without it an empty value would be no write at all
    except KernelError as error:
        if error.errno == errno.ENOSPC and not setting.value:
            # A cpuset that has been set cannot be emptied while processes are in it (kernel/cgroup/cpuset.c,
            # validate_change): all that the cgroup above has comes to the same.
            above = Cgroup(os.path.dirname(cgroup.path)).read(f"{setting.file}.effective")
            return cgroup.write(setting.file, above)
        if error.errno in _VALUE_REFUSED:
            raise InputError(
                f"{setting.file}: the kernel refuses {setting.value!r}: {os.strerror(error.errno)}"
            ) from error
        raise
