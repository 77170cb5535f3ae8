"""The guest's kernel and initrd, made from a Debian package that is unpacked and never installed.

The kernel is fetched once, a download of 100 MB, and kept in `.build/vm`; the initrd is made for every boot, which
costs less than to find out whether it is out of date. The kernel is kept uncompressed: QEMU then enters it directly
(PVH), and saves the two seconds in which an emulated processor would decompress it.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BUILD = REPOSITORY / ".build" / "vm"
MODULES = BUILD / "kernel" / "lib" / "modules"

KERNEL_PACKAGE = "linux-image-6.12-amd64"
PACKAGES = ("busybox-static", "cpio", "dbus", "kmod", "qemu-system-x86", "systemd", "xz-utils", "zstd")

# What the initrd needs to reach the host's files; the guest finds all others in /lib/modules.
BOOT_MODULES = ("9p", "9pnet_virtio", "overlay", "loop")
APPLETS = ("cat", "insmod", "ln", "mkdir", "mount", "sh", "switch_root")

# Linux/x86 boot protocol 2.08 (Documentation/arch/x86/boot.rst): where a bzImage keeps its compressed vmlinux.
SETUP_SECTORS_AT = 0x1F1
PAYLOAD_AT = 0x248


class MachineError(Exception):
    """The guest could not be built, did not boot, or ended before its job did; the text says all that is known."""


def run(arguments: Sequence[str | Path], *, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    """Run a tool of the host and return its standard output.

    Raises MachineError with what the tool wrote to standard error.
    """
    done = subprocess.run(arguments, cwd=cwd, input=data, capture_output=True)
    if done.returncode:
        command = " ".join(map(str, arguments))
        raise MachineError(f"{command}: exit status {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def kernel() -> Path:
    """Return the guest's uncompressed kernel; its modules are then in `MODULES`. Installs PACKAGES if missing."""
    run([REPOSITORY / ".ci" / "install", *PACKAGES])
    unpacked = BUILD / "kernel"
    if not unpacked.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            shutil.move(_unpack(Path(scratch)), unpacked)
    return unpacked / "vmlinux"


def _unpack(scratch: Path) -> Path:
    """Fetch the kernel package into `scratch` and return the directory it was unpacked to."""
    _download(scratch)
    (package,) = scratch.glob("*.deb")
    unpacked = scratch / "kernel"
    run(["dpkg", "--extract", package, unpacked])
    (version,) = (unpacked / "lib" / "modules").iterdir()
    run(["depmod", "--basedir", unpacked, version.name])
    (compressed,) = (unpacked / "boot").glob("vmlinuz-*")
    (unpacked / "vmlinux").write_bytes(
        run(["zstd", "--decompress", "--stdout"], data=_payload(compressed.read_bytes()))
    )
    return unpacked


def _download(directory: Path) -> None:
    """Have apt fetch the package that KERNEL_PACKAGE, an empty one, depends on."""
    try:
        run(["apt-get", "download", _dependency()], cwd=directory)
    except MachineError:
        # apt has no lists yet, or they are older than the mirror.
        run(["apt-get", "update"])
        run(["apt-get", "download", _dependency()], cwd=directory)


def _dependency() -> str:
    listing = run(["apt-cache", "depends", "--important", KERNEL_PACKAGE]).decode()
    for line in listing.splitlines():
        relation, _, package = line.strip().partition(": ")
        if relation == "Depends":
            return package
    raise MachineError(f"{KERNEL_PACKAGE}: apt knows no such package, or none that it depends on:\n{listing}")


def _payload(bzimage: bytes) -> bytes:
    """Cut the compressed vmlinux out of a bzImage; the last four bytes of the payload are its size, no data."""
    sectors = bzimage[SETUP_SECTORS_AT]
    offset, length = struct.unpack_from("<II", bzimage, PAYLOAD_AT)
    start = (sectors + 1) * 512 + offset
    return bzimage[start : start + length - 4]


def initrd(target: Path) -> None:
    """Write the initrd, a bare cpio archive of busybox, `guest/init` and the modules of BOOT_MODULES, to `target`."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        root = Path(scratch)
        for directory in ("bin", "changes", "dev", "host", "modules", "proc", "root", "sys"):
            (root / directory).mkdir()
        shutil.copy("/bin/busybox", root / "bin")
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        shutil.copy(Path(__file__).parent / "guest" / "init", root / "init")
        (root / "init").chmod(0o755)
        order = []
        for module in _with_dependencies(BOOT_MODULES):
            order.append(module.name.removesuffix(".xz"))
            (root / "modules" / order[-1]).write_bytes(run(["xz", "--decompress", "--stdout", module]))
        (root / "modules" / "order").write_text("".join(f"{name}\n" for name in order))
        names = b"".join(os.fsencode(path.relative_to(root)) + b"\0" for path in sorted(root.rglob("*")))
        target.write_bytes(run(["cpio", "--create", "--format=newc", "--null", "--quiet"], cwd=root, data=names))


def _with_dependencies(modules: Sequence[str]) -> list[Path]:
    """List the files of these modules and of all that they need, in an order in which they can be loaded."""
    (version,) = MODULES.iterdir()
    base = ["modprobe", "--dirname", str(BUILD / "kernel"), "--set-version", version.name, "--show-depends"]
    lines = [line for module in modules for line in run([*base, module]).decode().splitlines()]
    loads = [line.split()[1] for line in lines if line.startswith("insmod ")]
    return [Path(path) for path in dict.fromkeys(loads)]
