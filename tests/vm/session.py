"""pytest in a guest, on some tests of the session that runs here.

The guest runs pytest itself, on the very same files and node ids. `Reporter` is a pytest plugin at work there: it sends
each report through the machine's port. `GuestSession` is its other end, and hands the reports out test by test.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest

from tests.vm.image import BUILD, MachineError
from tests.vm.machine import Guest, Machine, tail

# In the guest: the port for reports. Its presence tells pytest that it runs in the guest.
PORT = "LEAFD_VM_PORT"

# How long one test may take in the guest, the machine's boot included, where everything is ten times slower.
PATIENCE_S = 300


class Reporter:
    """In the guest: writes every report, and the end of every test, to the port, one JSON object a line."""

    def __init__(self, config: pytest.Config, port: str) -> None:
        self._config = config
        self._port = Path(port).open("w", buffering=1)  # noqa: SIM115 - lives as long as the session

    def _tell(self, event: Mapping[str, object]) -> None:
        self._port.write(json.dumps(event, default=repr) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send a report in the form that pytest defines for such a journey."""
        self._tell({"report": self._config.hook.pytest_report_to_serializable(config=self._config, report=report)})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Say that no further report on this test will come."""
        self._tell({"finished": nodeid})

    def pytest_unconfigure(self) -> None:
        """Let go of the port; the machine's own last word goes through it, too."""
        self._port.close()


class GuestSession:
    """pytest in one machine on these tests. The machine boots when the first reports are asked for.

    first_report_s: seconds from then to the first report, None before it came.
    """

    def __init__(self, config: pytest.Config, guest: Guest, items: Sequence[pytest.Item]) -> None:
        self.guest = guest
        self.first_report_s: float | None = None
        self._config = config
        BUILD.mkdir(parents=True, exist_ok=True)
        self._directory = tempfile.TemporaryDirectory(prefix="session-", dir=BUILD)
        self._output = Path(self._directory.name, "output")
        self._node_ids = Path(self._directory.name, "tests")
        self._node_ids.write_text("".join(f"{item.nodeid}\n" for item in items))
        self._reports: dict[str, list[pytest.TestReport]] = {item.nodeid: [] for item in items}
        self._finished: set[str] = set()
        self._error: MachineError | None = None
        self._machine: Machine | None = None
        self._progress = self._run()

    def reports(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Wait until this test is over and return its reports; where it cannot end, a failed one says why."""
        while item.nodeid not in self._finished and self._error is None:
            try:
                next(self._progress)
            except MachineError as error:
                self._error = error
        reports = self._reports[item.nodeid]
        return reports if item.nodeid in self._finished else [*reports, self._failure(item)]

    def _run(self) -> Iterator[None]:
        """Boot, and take in what the guest tells, one event a turn. Ends with a MachineError, and only so."""
        started = time.monotonic()
        with self._output.open("wb") as output:
            self._machine = Machine(
                self._command(),
                directory=self._config.rootpath,
                output=output,
                guest=self.guest,
                environment=self._environment(),
            )
        for event in self._machine.events(PATIENCE_S):
            match event:
                case {"report": data}:
                    self.first_report_s = self.first_report_s or time.monotonic() - started
                    report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                    self._reports[report.nodeid].append(report)
                case {"finished": str(nodeid)}:
                    self._finished.add(nodeid)
                case {"exit": status}:
                    raise MachineError(f"pytest in the virtual machine ended early, with exit status {status}")
            yield

    def _environment(self) -> dict[str, str]:
        # What no test asks for is not loaded: hypothesis's own plugin alone takes seconds in the guest.
        environment = {PORT: "/dev/virtio-ports/events", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        # pytest shortens no text where it knows that nobody watches.
        return environment | {name: os.environ[name] for name in ("CI",) if name in os.environ}

    def _command(self) -> list[str]:
        option = self._config.option
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={self._config.rootpath}"]
        if self._config.inipath is not None:
            command.append(f"--config-file={self._config.inipath}")
        # What shapes the text of a failure.
        command += [f"--tb={option.tbstyle}", f"--verbosity={option.verbose}"]
        command += ["--showlocals"] if option.showlocals else []
        return [*command, f"@{self._node_ids}"]

    def _failure(self, item: pytest.Item) -> pytest.TestReport:
        text = f"{self._error}\n--- pytest there printed ---\n{tail(self._output)}"
        keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
        return pytest.TestReport(item.nodeid, item.location, keywords, "failed", longrepr=text, when="call")

    def close(self) -> None:
        """End the machine, finished or not."""
        if self._machine is not None:
            self._machine.close()
        self._directory.cleanup()
