"""The `process` object: who runs what, with which rights. Used for the init and for every exec."""

from leafshim.errors import InputError
from leafshim.kernel.capabilities import NAMES
from leafshim.kernel.process import RLIM_INFINITY, RLIMIT
from leafshim.spec.fields import Fields
from leafshim.spec.model import Capabilities, Process, Rlimit, User

MAX_ID = 2**32 - 2
"""2³²-1 is (uid_t) -1, which the kernel's interfaces read as "leave it as it is"; so it is nobody's id."""

_BIT = {name: 1 << number for number, name in enumerate(NAMES)}


def process(fields: Fields) -> Process:
    """Reads and ends a `process` object. InputError."""
    result = Process(
        terminal=fields.boolean("terminal"),
        console_size=_console_size(fields),
        user=_user(fields.object("user", {"uid": 0, "gid": 0})),
        args=fields.strings("args"),
        env=fields.strings("env"),
        cwd=fields.absolute("cwd"),
        capabilities=_capabilities(fields.object("capabilities")) if "capabilities" in fields else None,
        rlimits=_rlimits(fields),
        no_new_privileges=fields.boolean("noNewPrivileges"),
        oom_score_adj=fields.optional_integer("oomScoreAdj", -1000, 1000),
    )
    if not result.args or not result.args[0]:
        raise InputError(f"{fields.at('args')}: must name a program")
    for index, variable in enumerate(result.env):
        if variable.find("=") < 1:
            raise InputError(f"{fields.at('env')}[{index}]: must be NAME=value")
    if result.console_size and not result.terminal:
        raise InputError(f"{fields.at('consoleSize')}: needs terminal")
    fields.end()
    return result


def _console_size(fields: Fields) -> tuple[int, int] | None:
    if "consoleSize" not in fields:
        return None
    size = fields.object("consoleSize")
    rows, columns = size.integer("height", 0, 0xFFFF), size.integer("width", 0, 0xFFFF)
    size.end()
    return rows, columns


def _user(fields: Fields) -> User:
    user = User(
        uid=fields.integer("uid", 0, MAX_ID),
        gid=fields.integer("gid", 0, MAX_ID),
        umask=fields.optional_integer("umask", 0, 0o777),
        additional_gids=fields.integers("additionalGids", 0, MAX_ID),
    )
    fields.end()
    return user


def _capabilities(fields: Fields) -> Capabilities:
    capabilities = Capabilities(*(_mask(fields, name) for name in Capabilities._fields))
    # CVE-2022-24769: inheritable capabilities come back to life in the child of a program whose file carries
    # inheritable bits. The kernel wants them for ambient ones, and nothing else does.
    if capabilities.inheritable & ~capabilities.ambient:
        raise InputError(f"{fields.at('inheritable')}: must hold nothing that ambient does not")
    for name, lacking, other in (
        ("effective", capabilities.effective & ~capabilities.permitted, "permitted"),
        (
            "ambient",
            capabilities.ambient & ~(capabilities.permitted & capabilities.inheritable),
            "permitted and inheritable",
        ),
    ):
        if lacking:
            raise InputError(f"{fields.at(name)}: must be part of {other}")
    fields.end()
    return capabilities


def _mask(fields: Fields, name: str) -> int:
    mask = 0
    for index, capability in enumerate(fields.strings(name)):
        if capability not in _BIT:
            raise InputError(f"{fields.at(name)}[{index}]: no such capability: {capability}")
        mask |= _BIT[capability]
    return mask


def _rlimits(fields: Fields) -> tuple[Rlimit, ...]:
    limits: dict[str, Rlimit] = {}
    for item in fields.objects("rlimits"):
        name = item.string("type")
        if name not in RLIMIT:
            raise InputError(f"{item.at('type')}: no such resource limit: {name}")
        if name in limits:
            raise InputError(f"{item.at('type')}: {name} is there twice")
        hard = item.integer("hard", 0, RLIM_INFINITY)
        limits[name] = Rlimit(name, RLIMIT[name], item.integer("soft", 0, RLIM_INFINITY), hard)
        if limits[name].soft > hard:
            raise InputError(f"{item.at('soft')}: must not be above hard")
        item.end()
    return tuple(limits.values())
