"""The pytest plugin that sends tests marked `vm` to a guest, and reports them as if they had run here.

    @pytest.mark.vm                 needs every cgroup2 controller, PSI, or what else the host's kernel lacks
    @pytest.mark.vm(systemd=True)   needs systemd as the first process, too

All tests of one kind share one machine, which boots when their turn comes, after all native tests. Their reports enter
this session as they come, with outcome, duration and text, and count in the one closing summary.

A marked test is never skipped. When its machine does not boot, dies or falls silent, the test fails, and its text is
what the machine said last. Where the host itself offers everything, marked tests are plain tests; in the guest they
always are.
"""

import os
from pathlib import Path

import pytest

from tests.vm.machine import Guest
from tests.vm.session import PORT, GuestSession, Reporter

# In the order in which their tests run.
GUESTS: tuple[Guest, ...] = ("plain", "systemd")

CONTROLLERS = frozenset({"cpu", "cpuset", "io", "memory", "pids"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--vm`."""
    parser.addoption(
        "--vm",
        choices=("auto", "always", "never"),
        default="auto",
        help="run tests marked `vm` in a virtual machine: where this host lacks what they need (auto), always or never",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and take this process's part: in the guest, or before it."""
    config.addinivalue_line("markers", "vm(systemd=False): needs all controllers and PSI, or systemd; see tests/vm")
    if PORT in os.environ:
        config.pluginmanager.register(Reporter(config, os.environ[PORT]))
    else:
        config.pluginmanager.register(Guests(config))


def host_offers(guest: Guest, root: Path = Path("/")) -> bool:
    """Tell whether tests for this guest can run on the host whose files are below `root`."""
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    return (
        os.geteuid() == 0
        and controllers.exists()
        and CONTROLLERS.issubset(controllers.read_text().split())
        and (root / "proc/pressure/memory").exists()
        and (guest == "plain" or (root / "run/systemd/system").exists())
    )


def wanted_guest(item: pytest.Item) -> Guest | None:
    """Return the kind of guest that a test's marker asks for. Raises pytest.UsageError for a marker it cannot read."""
    marker = item.get_closest_marker("vm")
    if marker is None:
        return None
    match marker.args, marker.kwargs:
        case (), {"systemd": True, **others} if not others:
            return "systemd"
        case (), {**others} if not others:
            return "plain"
    raise pytest.UsageError(f"{item.nodeid}: write @pytest.mark.vm or @pytest.mark.vm(systemd=True)")


class Guests:
    """Puts marked tests last, and runs them in guests, one guest after the other."""

    def __init__(self, config: pytest.Config) -> None:
        mode = config.getoption("--vm")
        self._config = config
        self._used = [g for g in GUESTS if mode == "always" or (mode == "auto" and not host_offers(g))]
        self._sessions: dict[Guest, GuestSession] = {}

    def _guest(self, item: pytest.Item | None) -> Guest | None:
        """Where a test runs; None for here."""
        wanted = wanted_guest(item) if item is not None else None
        return wanted if wanted in self._used else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests by the place where they run, and keep their order otherwise."""
        places = [None, *GUESTS]
        items.sort(key=lambda item: places.index(self._guest(item)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a marked test by waiting for its reports."""
        guest, following = self._guest(item), self._guest(nextitem)
        if guest is None and following is None:
            return None
        if guest is None:
            # The last native test: with no next one that pytest itself sets up, all fixtures end here.
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
            return True
        session = self._session(guest, item.session)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in session.reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if following != guest:
            session.close()
        return True

    def _session(self, guest: Guest, session: pytest.Session) -> GuestSession:
        if guest not in self._sessions:
            items = [item for item in session.items if self._guest(item) == guest]
            self._sessions[guest] = GuestSession(self._config, guest, items)
        return self._sessions[guest]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what each machine cost."""
        for guest, session in self._sessions.items():
            if session.first_report_s is not None:
                terminalreporter.write_line(f"{guest} guest: first report after {session.first_report_s:.1f} s")

    def pytest_unconfigure(self) -> None:
        """End what an interrupted session left running."""
        for session in self._sessions.values():
            session.close()
