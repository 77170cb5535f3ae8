"""Crash points: where a test, and nobody else, has leafd, its nursery, the zygote or a shim's worker die by SIGKILL.

Rules:
1. Only a process that was started with LEAFD_CRASH in its environment can be told to crash. To any other a point is a
   look at an empty string. (The nursery has leafd's environment, and with it every shim; no container has it.)
2. The variable names a file. As long as there is none, nothing happens. It holds the name of a point, and then who dies
   before whoever reaches that: pids, and `shim` for the sleeper of the worker that does.
3. It acts once: who crashes has removed the file, so the next one at the same point lives on.
4. Every point is declared here, with the process that passes it; tests/unit/test_crashes.py compares with the code.
"""

import os

VARIABLE = "LEAFD_CRASH"
LEAFD, NURSERY, ZYGOTE, SHIM = "leafd", "nursery", "zygote", "shim"

_LEAFD = """
launch-PROVISIONING launched-PROVISIONING undo-PROVISIONING
launch-PREPARING launched-PREPARING undo-PREPARING
launch-ISOLATING launched-ISOLATING undo-ISOLATING
launch-RUNNING launched-RUNNING undo-RUNNING
launch-described launch-ordered launch-recorded launch-noted undone
event-journalled exit-recorded exit-synced nested-ended take-away-told take-away-removed take-away-ended stopped
stop-recorded stop-signalled remove-journalled remove-exit-gone remove-renamed removed
restart-begun restart-launched
recovery-looked recovery-exit-found recovery-orphan-removed
adopt-collected adopt-ordered adopt-answered adopt-recorded adopt-kept adopted
"""
_NURSERY = "nursery-ready nursery-asked nursery-spawned nursery-kept nursery-forgot"
_ZYGOTE = "zygote-asked zygote-forked"
_SHIM = """
order-received
create-judged create-written create-made create-cloned create-guarded create-kept create-noted create-released
create-handed-over create-answered
start-noted start-released start-executed start-answered
exec-added exec-launched exec-released exec-started
update-accepted update-kept updated
end-reaped end-emptied end-recorded end-published end-handed-over end-told
delete-begun delete-cgroup-gone shutdown
adopting adopt-noted
"""

POINTS = {
    point: process
    for process, points in ((LEAFD, _LEAFD), (NURSERY, _NURSERY), (ZYGOTE, _ZYGOTE), (SHIM, _SHIM))
    for point in points.split()
}
"""point → the process that passes it."""

_SIGKILL = 9
_FILE = os.environ.get(VARIABLE, "")


def crash(point: str) -> None:
    """Die here, if that is what a test asked for."""
    if _FILE:
        _obey(point)


def _obey(point: str) -> None:
    try:
        with open(_FILE, encoding="ascii") as file:
            wanted, *others = file.read().split() or [""]
        if wanted != point:
            return
        os.unlink(_FILE)
    except FileNotFoundError:  # not armed, or somebody was faster
        return
    for each in others:
        os.kill(os.getppid() if each == "shim" else int(each), _SIGKILL)
    os.kill(os.getpid(), _SIGKILL)
