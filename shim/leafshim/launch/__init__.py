"""From a spec to a running process: a plan that is computed and checked first, and a child that only carries it out.

    plan = plan_init(spec, mounts, bundle_rootfs)      or plan_exec(spec, process, init_pidfd)
    print(plan.describe())                             every step, one a line
    child = spawn(plan, leaf=cgroup, stdio=(0, 1, 2))
    child.advance() → Ready                            when child.channel is readable
    child.release()
    child.advance() → Executed                         or Failed, with the error of the step that failed

Rules:
1. Everything that can be refused without the kernel is refused by the plan, before the clone.
2. Between clone and execve the child imports nothing, reads no configuration, looks no name up.
3. The child's mounts are made in its own mount namespace: nothing is left on the host when it dies.
4. A path below the container's root is opened with the root as "/" (openat2 RESOLVE_IN_ROOT), and used by descriptor.

The rooms: `plan` orders the steps and `operation` says what a step is; `rootfs`, `mounts`, `protection`, `devices`,
`terminal`, `namespaces`, `identity` and `program` are the steps; `child` runs them; `handshake` is what child and
parent say to each other; `spawn` is the parent's side.
"""

from leafshim.launch.plan import Plan, plan_exec, plan_init
from leafshim.launch.spawn import Child, Executed, Failed, Ready, spawn

__all__ = ["Child", "Executed", "Failed", "Plan", "Ready", "plan_exec", "plan_init", "spawn"]
