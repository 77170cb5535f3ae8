"""Makes all that is published: sdist, wheel, leafctl.pyz and the Debian package. `make package` calls it.

Usage: build.py DIRECTORY

Rules:
1. Everything is made from the unpacked sdist. What is not in that, is in nothing.
2. The same source gives the same bytes: no time of today, no path of this machine, no order of a directory gets in.
   Times are $SOURCE_DATE_EPOCH (reproducible-builds.org), or else the last commit's.
3. What comes from outside is pinned: the libraries of the Debian package by their hash (requirements.txt).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipapp
import zipfile
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent

# Debian 12: CPython 3.11, glibc 2.36.
TARGET = (
    *("--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3", "--abi", "none"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)

MAIN = """import sys

from leafd.cli import main

sys.exit(main())
"""


class BuildError(Exception):
    """A tool that failed, and what it said."""


class Build:
    """One build, in the empty directory `scratch`. `seconds`: the release's time, since 1970."""

    def __init__(self, scratch: Path, seconds: int) -> None:
        self.scratch = scratch
        self.out = scratch / "out"
        self.out.mkdir()
        self.seconds = seconds
        self.version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
        self.environment = {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(seconds),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, arguments: Sequence[str | Path], cwd: Path, **environment: str) -> None:
        """Run a tool. Raises BuildError."""
        done = subprocess.run(
            arguments,
            cwd=cwd,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise BuildError(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{done.stdout[-4000:]}")

    def pip(self, *arguments: str | Path) -> None:
        """Run pip."""
        self.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], REPOSITORY)

    def sdist(self) -> Path:
        """The source, unpacked."""
        tools = self.scratch / "tools"
        self.pip("install", "--target", tools, "--requirement", HERE / "requirements-build.txt")
        self._hatchling(tools, REPOSITORY, "sdist")
        with tarfile.open(self.out / f"leafd-{self.version}.tar.gz") as archive:
            archive.extractall(self.scratch, filter="data")
        source = self.scratch / f"leafd-{self.version}"
        self._hatchling(tools, source, "wheel")
        return source

    def _hatchling(self, tools: Path, source: Path, target: str) -> None:
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            target,
            "--directory",
            self.out,
        ]
        self.run(command, source, PYTHONPATH=str(tools))

    def wheels(self, directory: Path) -> list[Path]:
        """leafd and what it imports."""
        directory.mkdir()
        self.pip("download", "--no-deps", "--require-hashes", "--only-binary", ":all:", *TARGET,
                 "--dest", directory, "--requirement", HERE / "requirements.txt")  # fmt: skip
        shutil.copy(self.out / f"leafd-{self.version}-py3-none-any.whl", directory)
        return sorted(directory.iterdir())

    def zipapp(self, wheels: Sequence[Path]) -> None:
        """leafctl in one file, for any Python from 3.11 on: no extension module can be loaded from a zip file, and
        msgpack does without its own."""
        tree = self.scratch / "leafctl"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as files:
                files.extractall(tree, [name for name in files.namelist() if not name.endswith(".so")])
        (tree / "__main__.py").write_text(MAIN)
        for path in tree.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (self.seconds, self.seconds))
        archive = self.out / "leafctl.pyz"
        zipapp.create_archive(tree, archive, "/usr/bin/env python3", compressed=True)
        archive.chmod(0o755)

    def deb(self, source: Path) -> None:
        """The Debian package; `source` has its wheels already."""
        packaging = source / "packaging"
        (source / "manual").mkdir()
        path = os.pathsep.join((str(source / "shim"), str(source / "supervisor")))
        manual = [sys.executable, packaging / "manual.py", source / "manual", self.version, str(self.seconds)]
        self.run(manual, source, PYTHONPATH=path)
        shutil.copytree(packaging / "debian", source / "debian")
        shutil.copytree(packaging / "systemd", source / "systemd")
        (source / "debian" / "changelog").write_text(
            f"leafd ({self.version}) stable; urgency=medium\n\n  * See /usr/share/doc/leafd/CHANGELOG.md.\n\n"
            f" -- The leafd authors <leafd@localhost>  {formatdate(self.seconds)}\n"
        )
        self.run(["dpkg-buildpackage", "--build=binary", "--no-sign"], source)
        (package,) = self.scratch.glob("leafd_*.deb")
        shutil.move(package, self.out)


def build(directory: Path, seconds: int) -> list[Path]:
    """Make everything; the artefacts. Raises BuildError."""
    os.umask(0o022)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="leafd-build-") as scratch:
        work = Build(Path(scratch), seconds)
        source = work.sdist()
        work.zipapp(work.wheels(source / "wheels"))
        work.deb(source)
        return [Path(shutil.copy(path, directory)) for path in sorted(work.out.iterdir())]


def main() -> int:
    """One line for each artefact."""
    try:
        last = ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"]
        seconds = os.environ.get("SOURCE_DATE_EPOCH") or subprocess.check_output(last, text=True)
        for path in build(Path(sys.argv[1]), int(seconds)):
            data = path.read_bytes()
            print(f"{path}  {len(data) // 1024} KiB  sha256 {hashlib.sha256(data).hexdigest()}")
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
