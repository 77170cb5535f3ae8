"""What is published, made once a session, and before a guest boots: there is no network in it, and it is slow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.session import PORT

REPOSITORY = Path(__file__).parents[2]
PACKAGES = REPOSITORY / ".build" / "package"
FAILURE = PACKAGES / "failure"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build, outside the guest, when a test asks for it."""
    wanted = any("packages" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and PORT not in os.environ and not session.config.option.collectonly:
        shutil.rmtree(PACKAGES, ignore_errors=True)
        PACKAGES.mkdir(parents=True)
        try:
            build(PACKAGES)
        except AssertionError as error:
            FAILURE.write_text(str(error))


def build(directory: Path) -> str:
    """What `make package` does, into this directory; what it prints. Raises AssertionError with what went wrong."""
    tools = [str(REPOSITORY / ".ci" / "install"), "debhelper", "dpkg-dev"]
    build_py = [sys.executable, str(REPOSITORY / "packaging" / "build.py"), str(directory)]
    for command in (tools, build_py):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def packages() -> Path:
    """The directory with the artefacts."""
    assert not FAILURE.exists(), FAILURE.read_text()
    return PACKAGES
