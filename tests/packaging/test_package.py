"""The artefacts: the same twice, complete, and of use without the checkout."""

import gzip
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import pytest

from leafd.cli.command import COMMANDS, leafctl
from leafd.config import from_arguments, parser
from tests.packaging.conftest import REPOSITORY, build


@pytest.fixture(scope="session")
def unpacked(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the Debian package."""
    (package,) = packages.glob("*.deb")
    directory: Path = tmp_path_factory.mktemp("deb")
    subprocess.run(["dpkg-deb", "--extract", package, directory], check=True)
    return directory


def manual(unpacked: Path, name: str) -> str:
    """A man page's source, hyphens as they are read."""
    path = unpacked / "usr/share/man" / f"man{name[-1]}" / f"{name}.gz"
    return gzip.decompress(path.read_bytes()).decode().replace("\\-", "-")


def test_a_second_build_has_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    lines = build(tmp_path).splitlines()
    first = {path.name: path.read_bytes() for path in packages.iterdir()}
    assert [line.split()[0] for line in lines] == [str(tmp_path / name) for name in sorted(first)]
    assert {Path(name).suffix for name in first} == {".deb", ".gz", ".pyz", ".whl"}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == first[path.name], path.name


def test_every_command_and_flag_of_leafctl_is_in_its_page(unpacked: Path) -> None:
    page = manual(unpacked, "leafctl.1")
    context = click.Context(leafctl)
    for name in COMMANDS:
        section = page.partition(f'.SS "{name}"\n')[2].partition("\n.SS ")[0]
        assert section, name
        command = leafctl.get_command(context, name)
        assert command is not None
        flags = [p.opts[-1] for p in command.params if isinstance(p, click.Option) and not p.hidden]
        assert [flag for flag in flags if flag not in section] == [], name


def test_every_flag_of_leafd_is_in_its_page(unpacked: Path) -> None:
    flags = [flag for action in parser()._actions for flag in action.option_strings]
    page = manual(unpacked, "leafd.8")
    assert flags
    assert [flag for flag in flags if flag not in page] == []


def test_the_packaged_settings_are_accepted_and_all_there(unpacked: Path) -> None:
    path = unpacked / "etc/leafd/leafd.toml"
    config = from_arguments(["--config", str(path)])
    assert config.cgroups_root == "system.slice/leafd-containers.service/leafd"
    uncommented = path.with_name("all.toml")
    uncommented.write_text(
        "\n".join(line.removeprefix("#") for line in path.read_text().splitlines() if "# " not in line)
    )
    assert from_arguments(["--config", str(uncommented)]) == config
    keys = {line.split()[0] for line in uncommented.read_text().splitlines() if line}
    page = manual(unpacked, "leafd.toml.5")
    assert keys == set(vars(config))
    assert [key for key in keys if f"\\fB{key} = " not in page] == []


def test_the_bundled_environment_runs_and_is_isolated(unpacked: Path) -> None:
    """By its path inside the package: a venv finds its home by pyvenv.cfg, wherever it is."""
    python = unpacked / "usr/lib/leafd/bin/python3"
    python.unlink()  # relative to the package's root, which is not the host's
    python.symlink_to("/usr/bin/python3")
    program = "import leafd.daemon, leafd.cli.run, leafshim.shim, msgpack._cmsgpack; print(leafd.__file__)"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True)
    assert done.stdout == f"{unpacked}/usr/lib/leafd/lib/python3.11/site-packages/leafd/__init__.py\n", done.stderr


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_leafctl_in_one_file_has_every_command(packages: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", packages / "leafctl.pyz", *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: leafctl")


def test_the_sdist_has_what_the_packages_are_made_of(packages: Path) -> None:
    (sdist,) = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"packaging/build.py", "packaging/debian/rules", "Makefile", "tests/packaging/test_package.py"} <= names
    assert not [name for name in names if name.startswith((".git/", ".venv", ".build", "dist"))]


@pytest.mark.parametrize("unit", ["leafd.service", "leafd.socket", "leafd-containers.service"])
def test_systemd_finds_nothing_wrong_in_a_unit(unpacked: Path, unit: str) -> None:
    directory = unpacked / "lib/systemd/system"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", f"{directory}/{unit}"],
        capture_output=True, text=True,
        env={"SYSTEMD_UNIT_PATH": f"{directory}:/lib/systemd/system", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    absent = "Command /usr/bin/leafd is not executable: No such file or directory"  # the package is not installed here
    assert [line for line in done.stderr.splitlines() if absent not in line] == []


def test_every_setting_is_documented_with_its_default(unpacked: Path) -> None:
    """The same line as in the packaged file, which is made from the program."""
    documented = (REPOSITORY / "docs" / "configuration.md").read_text()
    settings = [line[1:].split(" = ") for line in (unpacked / "etc/leafd/leafd.toml").read_text().splitlines()
                if line.startswith("#") and line[1:2].isalpha()]  # fmt: skip
    assert settings
    assert [key for key, default in settings if f"| `{key}` | `{default}` |" not in documented] == []


def test_bash_completes_leafctl(unpacked: Path) -> None:
    script = unpacked / "usr/share/bash-completion/completions/leafctl"
    shell = ["bash", "--norc", "-c", f"source {script} && complete -p leafctl"]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.stdout.endswith(" leafctl\n"), done.stderr
