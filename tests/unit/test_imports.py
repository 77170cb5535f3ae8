"""What an import costs: modules that the shim must never load, since each would take milliseconds or megabytes.

import-linter (`make lint`) watches over imports among our own packages; this watches what Python has really loaded.
"""

import json
import subprocess
import sys
from pathlib import Path

import leafshim

PACKAGE = Path(leafshim.__file__).parent

COSTLY = {
    "asyncio",
    "dataclasses",
    "google.protobuf",
    "inspect",
    "logging",
    "pathlib",
    "psutil",
    "subprocess",
    "tempfile",
    "threading",
}

# Serves the supervisor, which runs on asyncio anyway.
SUPERVISORS_OWN = PACKAGE / "ttrpc" / "aio"

# Imports modules one by one, and tells what each of them loaded that was not there before.
PROGRAM = """
import sys
found = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    __import__(name)
    found[name] = sorted(set(sys.modules) - before)
import json
print(json.dumps(found))
"""


def loaded_by(modules: list[str]) -> dict[str, list[str]]:
    """Import these modules in turn in a fresh interpreter; return the names that each added to `sys.modules`."""
    command = [sys.executable, "-I", "-c", PROGRAM, *modules]
    found: dict[str, list[str]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def modules_below(directory: Path) -> list[str]:
    """Name every module of the shim's package in this directory, but those that run when they are imported."""
    paths = sorted(path for path in directory.rglob("*.py") if path.name != "__main__.py")
    names = (".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names]


def test_the_shim_loads_nothing_costly() -> None:
    supervisors = modules_below(SUPERVISORS_OWN)
    loaded = loaded_by([name for name in modules_below(PACKAGE) if name not in supervisors])
    costly = {name: sorted(COSTLY.intersection(added)) for name, added in loaded.items()}
    assert {name: added for name, added in costly.items() if added} == {}


def test_the_wire_needs_none_of_our_modules_but_the_errors() -> None:
    wire = modules_below(PACKAGE / "ttrpc")
    ours = {name for added in loaded_by(wire).values() for name in added if name.startswith("leafshim")}
    assert ours - set(wire) == {"leafshim", "leafshim.errors"}
