"""Flags, the TOML file, and who wins."""

from dataclasses import fields
from pathlib import Path

import pytest

from leafd.config import KERNELS, Config, from_arguments, from_document
from leafshim.errors import InputError


def test_defaults_are_the_documented_paths() -> None:
    config = Config()
    assert (config.root, config.state, config.listen) == ("/run/leafd", "/var/lib/leafd", "/run/leafd/leafd.sock")


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "leafd.toml"
    file.write_text(f'root = "{tmp_path}/a"\ncgroups_root = "from/file"\nstop_grace = 3\njournal_size = 4096\n')
    config = from_arguments(["--config", str(file), "--root", f"{tmp_path}/b", "-v"])
    assert config.root == f"{tmp_path}/b"
    assert config.cgroups_root == "from/file"
    assert config.stop_grace == 3.0
    assert config.journal_size == 4096
    assert config.verbose
    assert config.state == Config.state


def test_what_to_do_with_what_is_there(tmp_path: Path) -> None:
    assert from_arguments([]).recover == "reconnect"
    assert from_arguments(["--recover", "cleanup"]).recover == "cleanup"
    file = tmp_path / "leafd.toml"
    file.write_text('recover = "perhaps"\n')
    with pytest.raises(InputError, match="recover: 'perhaps': must be one of reconnect, cleanup"):
        from_arguments(["--config", str(file)])


def test_paths_lose_their_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert from_arguments(["--root", f"{tmp_path}/link/x"]).root == f"{tmp_path}/real/x"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rooot = '/x'", "rooot: no such setting"),
        ("root = 3", "root: must be of type str"),
        ("stop_grace = 'long'", "stop_grace: must be of type float"),
        ("stop_grace = true", "stop_grace: must be of type float"),
        ("journal_size = 1.5", "journal_size: must be of type int"),
        ("restart_max = -1", "restart_max: must be more than 0"),
        ("root = ", "leafd.toml: "),
        ("root = ''", "root: must not be empty"),
        ("isolation = 'cpu,ram'", "isolation: 'ram': must be all, none or some of cpu, "),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "leafd.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=complaint):
        from_arguments(["--config", str(file)])


@pytest.mark.parametrize(
    ("isolation", "controllers"),
    [("all", KERNELS), ("none", ()), ("memory", ("memory",)), ("cpu,hugetlb", ("cpu", "hugetlb"))],
)
def test_the_controllers_of_every_container(isolation: str, controllers: tuple[str, ...]) -> None:
    assert from_arguments(["--isolation", isolation]).controllers == controllers


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: No such file or directory"):
        from_arguments(["--config", f"{tmp_path}/nowhere.toml"])


def test_every_field_is_a_key() -> None:
    config = Config()
    document: dict[str, object] = {field.name: getattr(config, field.name) for field in fields(Config)}
    assert from_document(document, "test", config) == config
