"""What an operator may choose: flags, and a TOML file with one key for each field of `Config`.

Rules:
1. A flag wins over the file, the file over the default. Beside FILE, the files `FILE.d/*.toml` are read, by name; a
   later one wins. Every key is documented here, at its field; the manual and the packaged file are made from that.
2. Unknown keys, wrong types and values are refused by file and key: a typing error must not become a default.
3. Paths are made absolute and free of symbolic links once, here, so that everything else may compare them as strings.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from leafd.restarts import BackOff
from leafshim.cgroup.isolator import CONTROLLERS, WITH_FIGURES
from leafshim.cgroup.layout import Layout
from leafshim.errors import InputError

ALL, NONE = "all", "none"
KERNELS = tuple(controller.name for controller in CONTROLLERS if controller.name)
"""The controllers of the kernel that leafd knows."""

RECONNECT, CLEANUP = RECOVER = ("reconnect", "cleanup")


@dataclass(frozen=True)
class Config:
    """Times are in seconds, sizes in bytes."""

    root: str = "/run/leafd"
    """Directory of what dies with the boot: sockets, and each container's directory."""
    state: str = "/var/lib/leafd"
    """Directory of what outlives the boot: exit records and the event journal."""
    socket: str = ""
    """Where clients connect; empty: ROOT/leafd.sock."""
    cgroups_root: str = "leafd"
    """Name, relative to the cgroup2 mount, of the cgroup that all of ours is below. May have several levels."""
    separator: str = "mesos"
    """Name of the cgroup between a container and those nested in it."""
    verbose: bool = False
    """Log what is done, not only what goes wrong."""

    isolation: str = ",".join(WITH_FIGURES)
    """The cgroup2 controllers that every new container has enabled, where the host has them: for their figures, and to
    be told when a limit is hit. A list, `all`, or `none`. One that limits a container is enabled for that in any case,
    and what a container has it keeps."""
    recover: str = "reconnect"
    """What to do with the containers of an earlier leafd: `reconnect` finds them again, `cleanup` ends all of them, and
    then leafd ends too."""

    call_deadline: float = 5.0
    """For one call to a shim or to the nursery."""
    launch_deadline: float = 30.0
    """For a shim to make a container, mounts included."""
    renewal_deadline: float = 30.0
    """For the trial of the code that is installed, before the nursery goes on with it."""
    delete_deadline: float = 15.0
    """For a shim to delete a container: it drains its output first, and waits for its cgroups to empty."""
    recovery_budget: float = 2.0
    """For all containers together, after which the socket is served and those still silent are shown as UNKNOWN."""
    stop_grace: float = 10.0
    """Between the stop signal and SIGKILL, where the client names no grace."""
    reap_deadline: float = 60.0
    """For the processes of a killed cgroup to end and the cgroup to go."""

    watchdog: float = 60.0
    """An event loop that is stuck for as long ends leafd: where it is stuck is written to standard error, and whoever
    started leafd may start the next. (systemd's own WatchdogSec= is served in any case.)"""

    restart_first: float = 0.1
    """Delay of the first restart in a row."""
    restart_max: float = 60.0
    """Longest delay of a restart."""
    restart_reset: float = 60.0
    """A run of at least this long starts the delays anew."""

    journal_size: int = 16 << 20
    """Of the event journal; the oldest events go first."""
    followers: int = 256
    """How many streams of events and logs are served at once."""
    log_size: int = 64 << 20
    """Of one container's log; then it moves to `log.1`, replacing it."""
    overlay_size: int = 1 << 30
    """For the changes of a container on the host's files, where the client names no size. It is a limit: memory is
    used as files are written."""

    @property
    def listen(self) -> str:
        """The path of the socket that clients connect to."""
        return self.socket or os.path.join(self.root, "leafd.sock")

    @property
    def controllers(self) -> tuple[str, ...]:
        """`isolation`, as names."""
        if self.isolation in (ALL, NONE):
            return KERNELS if self.isolation == ALL else ()
        return tuple(self.isolation.split(","))

    @property
    def back_off(self) -> BackOff:
        """The delays of restarts."""
        return BackOff(self.restart_first, self.restart_max, self.restart_reset)


def from_document(document: dict[str, object], source: str, base: Config) -> Config:
    """`base` with the keys of a parsed TOML document in place of its own; `source` names it in errors.

    Raises InputError.
    """
    kinds = {field.name: type(getattr(base, field.name)) for field in fields(Config)}
    chosen: dict[str, object] = {}
    for key, value in document.items():
        kind = kinds.get(key)
        if kind is None:
            raise InputError(f"{source}: {key}: no such setting")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise InputError(f"{source}: {key}: must be of type {kind.__name__}")
        if refusal := _refusal(key, value):
            raise InputError(f"{source}: {key}: {refusal}")
        chosen[key] = value
    return replace(base, **chosen)  # type: ignore[arg-type]  # proven by the loop above


def _refusal(key: str, value: object) -> str:
    """Why a value of the right type is refused; empty where it is not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "" if value > 0 else "must be more than 0"  # nan is not, either
    if key in ("root", "state", "cgroups_root", "separator") and not value:
        return "must not be empty"
    if key in ("cgroups_root", "separator"):
        try:
            Layout("/", **{"root" if key == "cgroups_root" else key: str(value)})
        except InputError as error:
            return str(error)
    if key == "isolation" and value not in (ALL, NONE):
        unknown = sorted(set(str(value).split(",")) - set(KERNELS))
        return f"{unknown[0]!r}: must be all, none or some of {', '.join(KERNELS)}" if unknown else ""
    if key == "recover" and value not in RECOVER:
        return f"{value!r}: must be one of {', '.join(RECOVER)}"
    return ""


def parser() -> argparse.ArgumentParser:
    """leafd's command line."""
    parser = argparse.ArgumentParser(prog="leafd", description="Supervise containers that outlive their supervisor.")
    parser.add_argument("--root", metavar="DIR", help=f"sockets and containers (default {Config.root})")
    parser.add_argument("--state", metavar="DIR", help=f"exit records and events (default {Config.state})")
    parser.add_argument("--socket", metavar="PATH", help="where clients connect (default ROOT/leafd.sock)")
    parser.add_argument("--cgroups-root", metavar="NAME", help=f"below the mount (default {Config.cgroups_root})")
    parser.add_argument(
        "--isolation", metavar="LIST", help=f"controllers of every container, all or none (default {Config.isolation})"
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with any setting; also FILE.d/*.toml")
    parser.add_argument(
        "--recover",
        choices=RECOVER,
        help=f"find containers again, or end them all and exit (default {Config.recover})",
    )
    parser.add_argument("-v", "--verbose", action="store_true", default=None, help="log what is done")
    parser.add_argument("--check-config", action="store_true", help="say what is wrong with file and flags, or ok")
    return parser


def from_arguments(arguments: Sequence[str] | None = None) -> Config:
    """The configuration by the command line (default: sys.argv). A wrong flag exits with status 2, as argparse does;
    `--check-config` says ok and exits with 0.

    Raises InputError for what a file or a flag says.
    """
    flags = vars(parser().parse_args(arguments))
    check = flags.pop("check_config")
    config = Config()
    if path := flags.pop("config"):
        for each in (path, *_drop_ins(f"{path}.d")):
            config = from_document(_parse(each), each, config)
    config = from_document({key: value for key, value in flags.items() if value is not None}, "flag", config)
    if check:
        print("leafd: ok")
        raise SystemExit(0)
    return replace(
        config,
        root=os.path.realpath(config.root),
        state=os.path.realpath(config.state),
        socket=os.path.abspath(config.socket) if config.socket else "",
    )


def _drop_ins(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}") from error
    return [os.path.join(directory, name) for name in sorted(names) if name.endswith(".toml")]


def _parse(path: str) -> dict[str, object]:
    import tomllib  # only those who have a file pay for its parser

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
