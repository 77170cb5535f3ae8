"""tree: containers, the containers nested in them, and all their processes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import click

from leafd.cli import output, views
from leafd.cli.command import Caller, Command
from leafshim.api.containers import Container
from leafshim.cgroup.hierarchy import Cgroup
from leafshim.errors import LeafError


class _Process(NamedTuple):
    pid: int
    parent: int
    command: str


class _Node(NamedTuple):
    """One line of the tree, and what hangs below it."""

    line: str
    children: Sequence["_Node"]


@click.command("tree", cls=Command)
@click.pass_obj
def tree_command(caller: Caller) -> None:
    """Show containers, nested ones and their processes as a tree.

    Processes are those of the container's leaf cgroup and of the cgroups that the workload made below it.
    """
    with caller.client() as client:
        version = client.version()
        containers = {container.id: container for container in client.list()}
    if caller.json:
        output.emit([_as_json(containers, name) for name in _nested(containers, "")])
        return
    click.echo(f"leafd {version.version}, pid {version.pid}")
    for line in _draw([_as_node(containers, name) for name in _nested(containers, "")], ""):
        click.echo(line)


def _nested(containers: Mapping[str, Container], parent: str) -> list[str]:
    """The ids directly below `parent` (the top for ""), or whose own parent is not listed any more."""
    return sorted(name for name in containers if _parent(containers, name) == parent)


def _parent(containers: Mapping[str, Container], name: str) -> str:
    parent = name.rpartition("/")[0]
    return parent if parent in containers else ""


def _as_json(containers: Mapping[str, Container], name: str) -> dict[str, output.Json]:
    container = containers[name]
    return {
        "id": name,
        "state": container.state,
        "shim_pid": container.shim_pid or None,
        "pid": container.pid or None,
        "processes": [process._asdict() for process in _processes(container)],
        "containers": [_as_json(containers, nested) for nested in _nested(containers, name)],
    }


def _as_node(containers: Mapping[str, Container], name: str) -> _Node:
    container = containers[name]
    state = output.state("PAUSED" if container.paused else container.state)
    shim = f", shim {container.shim_pid}" if container.shim_pid else ""
    processes = _processes(container)
    known = {process.pid for process in processes}
    roots = [process for process in processes if process.parent not in known]
    return _Node(
        f"{name}  {state}  {views.status(container)}{shim}",
        [_process_node(process, processes) for process in roots]
        + [_as_node(containers, nested) for nested in _nested(containers, name)],
    )


def _process_node(process: _Process, processes: Sequence[_Process]) -> _Node:
    children = [_process_node(child, processes) for child in processes if child.parent == process.pid]
    return _Node(f"{process.pid}  {process.command}", children)


def _draw(nodes: Sequence[_Node], indent: str) -> Iterator[str]:
    for node in nodes:
        last = node is nodes[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}{node.line}"
        yield from _draw(node.children, indent + ("   " if last else "│  "))


def _processes(container: Container) -> list[_Process]:
    """The processes below the container's leaf, by pid. One that ends while we look is left out."""
    found = []
    for pid in _pids(Cgroup(container.leaf)) if container.leaf else ():
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                command = " ".join(file.read().split("\0")).strip() or f"[{name}]"
        except OSError:
            continue
        found.append(_Process(pid, int(rest.split()[1]), " ".join(command.split())))
    return sorted(found)


def _pids(cgroup: Cgroup) -> Iterator[int]:
    try:
        yield from cgroup.processes()
        children = cgroup.children()
    except LeafError:  # gone while we look
        return
    for child in children:
        yield from _pids(child)
