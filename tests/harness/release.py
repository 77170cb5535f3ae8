"""Another release, installed beside this one: the same packages with another version, and an interpreter that finds
them."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import leafd
import leafshim


class Release:
    """A virtual environment in `directory` with our packages under the version `version`, and the rest as we have it.

    `bin`: where its `leafd` and `leafctl` are. Its code may be changed: `package` is leafshim's directory.
    """

    def __init__(self, directory: Path, version: str) -> None:
        self.version = version
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        python = self.bin / "python"
        python.symlink_to(os.path.realpath(sys.executable))
        home = Path(sys._base_executable).parent  # type: ignore[attr-defined]
        (directory / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
        packages = directory / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        packages.mkdir(parents=True)
        # Not by a .pth file: our own is editable, and has one that would be read too.
        ours = Path(sysconfig.get_path("purelib"))
        for entry in ours.iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith(("leafd", "leafshim", "_editable")):
                (packages / entry.name).symlink_to(entry)
        for module in (leafshim, leafd):
            source = Path(module.__path__[0])
            shutil.copytree(source, packages / source.name)
        self.package = packages / "leafshim"
        about = self.package / "__init__.py"
        about.write_text(about.read_text().replace(leafshim.__version__, version))
        for name, entry_point in (("leafd", "leafd.daemon"), ("leafctl", "leafd.cli")):
            script = self.bin / name
            script.write_text(f"#!{python}\nimport sys\nfrom {entry_point} import main\nsys.exit(main())\n")
            script.chmod(0o755)
