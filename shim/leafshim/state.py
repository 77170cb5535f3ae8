"""The launch states of a container, as a literal table (Mesos's, src/slave/containerizer/mesos/containerizer.hpp).

    PROVISIONING   its directory is being made                                     (the supervisor)
    PREPARING      a shim is there; the plan is computed; nothing of it runs       (supervisor, then shim)
    ISOLATING      init exists in its leaf, its namespaces made, and waits to be released
    RUNNING        init was released
    DESTROYING     init has ended or is being ended; what it left is killed and its output drained
    STOPPED        the exit record is on disk

Rules:
1. Only the moves below exist. Any other raises StateError and changes nothing.
2. Every state but STOPPED may go to DESTROYING: a container can be ended at any moment of its life.
3. From STOPPED a restart policy begins again at PREPARING, with a new shim in the same directory.
4. PAUSED is no state of its own: a running container's cgroup is frozen or not.
"""

from leafshim.errors import StateError

PROVISIONING = "PROVISIONING"
PREPARING = "PREPARING"
ISOLATING = "ISOLATING"
RUNNING = "RUNNING"
DESTROYING = "DESTROYING"
STOPPED = "STOPPED"

TRANSITIONS: dict[str, frozenset[str]] = {
    PROVISIONING: frozenset({PREPARING, DESTROYING}),
    PREPARING: frozenset({ISOLATING, DESTROYING}),
    ISOLATING: frozenset({RUNNING, DESTROYING}),
    RUNNING: frozenset({DESTROYING}),
    DESTROYING: frozenset({STOPPED}),
    STOPPED: frozenset({PREPARING}),
}


def move(present: str, wanted: str) -> str:
    """`wanted`, if the table has a way from `present` to it. Raises StateError."""
    if wanted not in TRANSITIONS[present]:
        raise StateError(f"a container that is {present} cannot become {wanted}")
    return wanted
