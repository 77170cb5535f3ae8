"""debug: what a container, or its shim, is doing; it goes past leafd."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import click

from leafd.cli import output
from leafd.cli.command import Caller, Command
from leafd.cli.identifiers import ONE
from leafd.inspection import bundle, control, processes, shims, target, why
from leafd.inspection.control import File
from leafd.inspection.processes import Process
from leafd.inspection.target import Target
from leafshim.cgroup.hierarchy import Cgroup

_FRAMES = 4  # of a kernel stack, in the text


@click.command("debug", cls=Command)
@click.option("-o", "--output", "path", metavar="FILE", help="For `bundle`: the file to make; it must not exist yet. "
              "Default: leafd-debug-ID-TIME.tar.")  # fmt: skip
@click.argument("container", **ONE)
@click.argument("what", type=click.Choice(["why", "ps", "cgroup", "shim", "bundle"]), default="why")
@click.pass_obj
def debug_command(caller: Caller, container: str, what: str, path: str | None) -> None:
    """Say what a container is doing, and why it does not go on.

    \b
    why     in words: what it waits for, what holds it back, what ended it (the default)
    ps      its processes as a tree: state, CPU time, memory, threads, where in the kernel they wait
    cgroup  every file of its cgroups, explained
    shim    the shim itself: descriptors, its loop's last events, stacks, memory
    bundle  all of it as a tar file for a bug report, without values of the environment and without output

    It asks the container's shim, not leafd, which may be down; where the shim hangs, the kernel is asked alone. Nothing
    is stopped or changed. It is for root.

    \b
    Examples:
      leafctl debug web
      leafctl debug web ps
      leafctl --json debug web cgroup | jq '.container[] | select(.name == "memory.events")'
      leafctl debug -o /tmp/web.tar web bundle
    """
    if path is not None and what != "bundle":
        raise click.UsageError("--output: only for bundle")
    with target.find(os.path.dirname(os.path.abspath(caller.socket)), container) as found:
        if what == "bundle":
            path = path or bundle.default_name(found)
            names = bundle.write(path, found, {topic: look(found) for topic, look in _LOOKS.items()})
            if caller.json:
                output.emit({"path": path, "files": names})
            else:
                click.echo(path)
            return
        seen = _LOOKS[what](found)
    if caller.json:
        output.emit(cast(output.Json, seen))
        return
    for line in _TEXTS[what](seen):
        click.echo(line)


def _ps(found: Target) -> object:
    return processes.look(found.pids())


def _cgroup(found: Target) -> object:
    return {
        "path": found.cgroup or None,
        "container": control.look(Cgroup(found.cgroup)) if found.cgroup else [],
        "leaf": control.look(found.leaf) if found.cgroup else [],
    }


_LOOKS: dict[str, Callable[[Target], object]] = {"why": why.look, "ps": _ps, "cgroup": _cgroup, "shim": shims.look}


def _why_text(seen: object) -> Iterator[str]:
    findings = cast(list[why.Finding], seen)
    for finding in findings:
        yield f"{finding['kind']:15} {finding['text']}"
    if not findings:
        yield "nothing to say: no process is left, and no cgroup"


def _ps_text(seen: object) -> Iterator[str]:
    listed = cast(list[Process], seen)
    known = {process["pid"] for process in listed}
    yield f"{'PID':>8} {'STATE':15} {'CPU':>8} {'RSS':>10} {'THREADS':>7}  COMMAND"
    pending = [(process, 0) for process in reversed(listed) if process["parent"] not in known]
    while pending:
        process, depth = pending.pop()
        state = processes.STATES.get(process["state"], process["state"])
        yield (
            f"{process['pid']:>8} {state:15} {process['cpu']:>6.2f} s"
            f" {output.size(process['rss']):>10} {len(process['threads']):>7}  {'  ' * depth}{process['command']}"
        )
        for thread in process["threads"]:
            if trace := _trace(thread):
                who = f"thread {thread['tid']} ({thread['name']}) " if len(process["threads"]) > 1 else ""
                yield f"{'':25}{'  ' * depth}{who}in {trace}"
        pending.extend((child, depth + 1) for child in reversed(listed) if child["parent"] == process["pid"])


def _trace(thread: processes.Thread) -> str:
    frames = thread["stack"] or ([thread["wchan"]] if thread["wchan"] else [])
    return " < ".join(frames[:_FRAMES]) + (" < …" if len(frames) > _FRAMES else "")


def _cgroup_text(seen: object) -> Iterator[str]:
    both = cast(dict[str, object], seen)
    if both["path"] is None or not both["container"]:
        yield "no cgroup is left"
        return
    for title, part in (("", "container"), ("/leaf", "leaf")):
        yield f"{both['path']}{title}"
        for file in cast(Sequence[File], both[part]):
            lines = ["(cannot be read)"] if file["value"] is None else file["value"].splitlines() or ["(empty)"]
            yield f"  {file['name']}: {file['meaning'] or 'not known to this release'}"
            yield from (f"      {line}" for line in lines)


def _shim_text(seen: object) -> Iterator[str]:
    shim = cast(shims.Shim, seen)
    if not shim["pid"]:
        yield "no shim is left"
    else:
        yield f"shim {shim['pid']}, version {shim['version'] or 'unknown'}, container {shim['state']}"
    if shim["silence"] is not None:
        yield f"it told nothing of itself: {shim['silence']}"
    for process in shim["processes"]:
        memory = shim["memory"][str(process["pid"])]
        pss = "unknown" if memory["pss"] is None else output.size(memory["pss"])
        yield f"  {process['pid']} {process['threads'][0]['name'] if process['threads'] else ''}: " + (
            f"{processes.STATES.get(process['state'], process['state'])}, PSS {pss}, CPU {process['cpu']:.2f} s"
        )
        yield from (f"      in {trace}" for thread in process["threads"] if (trace := _trace(thread)))
    if shim["worker_pid"] is None:
        return
    yield f"worker {shim['worker_pid']}, {'nothing' if shim['at_rest'] else 'something'} under way; it is at"
    yield from (f"  {frame}" for frame in shim["stack"])
    yield "descriptors (* watched)"
    for each in shim["descriptors"]:
        yield f"  {each['fd']:>4}{'*' if each['watched'] else ' '} {each['target']}"
    yield "the loop's last events, since this worker began"
    for event in shim["history"]:
        moment = time.strftime("%H:%M:%S", time.localtime(event["time"] // 10**9))
        what = "deadline" if event["fd"] is None else f"fd {event['fd']} mask {event['mask']:#x}"
        yield f"  {moment}.{event['time'] // 10**6 % 1000:03} {what:20} {event['callback']}"


_TEXTS: dict[str, Callable[[object], Iterator[str]]] = {
    "why": _why_text,
    "ps": _ps_text,
    "cgroup": _cgroup_text,
    "shim": _shim_text,
}
