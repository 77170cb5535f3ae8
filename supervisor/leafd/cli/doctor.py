"""doctor: what this host can do for containers.

A finding is `ok`, `missing` (something works less well, or a flag cannot be used) or `failed` (containers cannot run,
or leafd does not answer). Only what failed makes the exit status 1.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import click

from leafd.cli import output
from leafd.cli.command import Caller, Command, Failure
from leafshim.cgroup import devices
from leafshim.cgroup.hierarchy import find_mount
from leafshim.errors import LeafError

OK, MISSING, FAILED = "ok", "missing", "failed"

# controller → what is lost without it
_CONTROLLERS = {
    "cpu": "--cpus",
    "cpuset": "--cpuset-cpus",
    "io": "--io-max and --io-weight",
    "memory": "--memory",
    "pids": "--pids",
    "hugetlb": "--hugetlb",
}
_OLDEST_KERNEL = (5, 14)  # cgroup.kill
_EXIT_OF_STRANGERS = (6, 15)  # PIDFD_INFO_EXIT
_CAP_SYS_ADMIN = 21


class Finding(NamedTuple):
    """One line of the report."""

    check: str
    result: str
    detail: str


@click.command("doctor", cls=Command)
@click.pass_obj
def doctor_command(caller: Caller) -> None:
    """Say what this host can do for containers, and what is missing.

    The exit status is 1 when containers cannot run here or leafd does not answer; a missing controller is reported,
    but only makes the limits that need it impossible.

    \b
    Examples:
      leafctl doctor
      leafctl --json doctor | jq '.[] | select(.result != "ok")'
    """
    findings = list(examine(caller))
    if caller.json:
        output.emit([finding._asdict() for finding in findings])
    else:
        colours = {OK: "green", MISSING: "yellow", FAILED: "red"}
        for check, result, detail in findings:
            mark = f"{result:8}"
            click.echo(f"{click.style(mark, fg=colours[result]) if output.coloured() else mark}{check:12}  {detail}")
    failed = [finding.check for finding in findings if finding.result == FAILED]
    if failed:
        raise Failure("doctor", f"{', '.join(failed)}: see the report")


def examine(caller: Caller) -> Iterator[Finding]:
    """All findings, the kernel's first."""
    yield _kernel()
    yield _privileges()
    try:
        mount = find_mount()
    except LeafError as error:
        yield Finding("cgroup2", FAILED, str(error))
    else:
        yield Finding("cgroup2", OK, f"mounted at {mount}")
        yield from _controllers(mount)
    yield _devices()
    yield _overlay()
    yield _pressure()
    yield from _supervisor(caller)


def _kernel() -> Finding:
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    if (major, minor) < _OLDEST_KERNEL:
        return Finding("kernel", FAILED, f"Linux {release}: 5.14 or later is needed (cgroup.kill)")
    if (major, minor) < _EXIT_OF_STRANGERS:
        return Finding("kernel", MISSING, f"Linux {release}: the exit status of a container whose shim died is unknown")
    return Finding("kernel", OK, f"Linux {release}")


def _privileges() -> Finding:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    if effective & 1 << _CAP_SYS_ADMIN:
        return Finding("privileges", OK, "CAP_SYS_ADMIN")
    return Finding("privileges", FAILED, "CAP_SYS_ADMIN is needed to make namespaces and mounts")


def _controllers(mount: str) -> Iterator[Finding]:
    with open(os.path.join(mount, "cgroup.controllers"), encoding="ascii") as file:
        offered = set(file.read().split())
    yield Finding("controllers", OK if offered else MISSING, ", ".join(sorted(offered)) or "none")
    elsewhere = _held_by_v1()
    for name, use in _CONTROLLERS.items():
        if name not in offered:
            why = "a cgroup v1 hierarchy holds it" if name in elsewhere else "the kernel does not offer it"
            yield Finding(name, MISSING, f"{why}; without it: no {use}")


def _devices() -> Finding:
    try:
        devices.probe()
    except LeafError as error:
        return Finding("devices", MISSING, f"{error}; without them: no --device, and containers can use any device")
    return Finding("devices", OK, "device rules can be enforced")


def _held_by_v1() -> set[str]:
    """Controllers that are bound to a cgroup v1 hierarchy (cgroups(7), /proc/cgroups: hierarchy 0 is v2's)."""
    try:
        with open("/proc/cgroups", encoding="ascii") as file:
            lines = [line.split() for line in file if not line.startswith("#")]
    except OSError:
        return set()
    names = {"blkio": "io"}
    return {names.get(line[0], line[0]) for line in lines if line[1] != "0"}


def _overlay() -> Finding:
    with open("/proc/filesystems", encoding="ascii") as file:
        if "\toverlay\n" in file.read():
            return Finding("overlay", OK, "containers can run on the host's own files")
    return Finding("overlay", MISSING, "not in /proc/filesystems (yet); without it --rootfs is needed")


def _pressure() -> Finding:
    if os.path.exists("/proc/pressure/memory"):
        return Finding("pressure", OK, "PSI is on")
    return Finding("pressure", MISSING, "the kernel has no PSI, or it is off (psi=1)")


def _supervisor(caller: Caller) -> Iterator[Finding]:
    try:
        with caller.client() as client:
            version = client.version()
    except LeafError as error:
        yield Finding("supervisor", FAILED, str(error))
        return
    yield Finding("supervisor", OK, f"leafd {version.version}, pid {version.pid}, at {caller.socket}")
    alive = version.nursery_pid and os.path.exists(f"/proc/{version.nursery_pid}")
    nursery = f"{version.nursery_version}, pid {version.nursery_pid}"
    yield Finding("nursery", OK, nursery) if alive else Finding("nursery", FAILED, "not running")
    yield Finding("directories", OK, f"root {version.root}, state {version.state}")
    yield Finding("cgroups", OK, f"{version.cgroups_root} ({', '.join(version.controllers) or 'no controllers'})")
