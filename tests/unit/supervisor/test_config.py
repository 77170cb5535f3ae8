"""Flags, the TOML file, and who wins."""

from dataclasses import fields
from pathlib import Path

import pytest

from leafd.config import KERNELS, Config, from_arguments, from_document, parser
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


def test_drop_ins_are_read_by_name_and_a_later_one_wins(tmp_path: Path) -> None:
    file, directory = tmp_path / "leafd.toml", tmp_path / "leafd.toml.d"
    directory.mkdir()
    file.write_text("stop_grace = 1\nfollowers = 7\nlog_size = 11\n")
    (directory / "20-b.toml").write_text("stop_grace = 3\n")
    (directory / "10-a.toml").write_text("stop_grace = 2\nlog_size = 12\n")
    (directory / "README").write_text("no TOML")
    config = from_arguments(["--config", str(file)])
    assert (config.stop_grace, config.followers, config.log_size) == (3.0, 7, 12)


@pytest.mark.parametrize("line", ["rooot = 1", "followers = 0", "recover = 'x'", "separator = 'agent'", "state = ''"])
def test_a_bad_drop_in_is_refused_by_file_and_key(tmp_path: Path, line: str) -> None:
    (tmp_path / "leafd.toml").touch()
    (tmp_path / "leafd.toml.d").mkdir()
    bad = tmp_path / "leafd.toml.d" / "10-a.toml"
    bad.write_text(line)
    with pytest.raises(InputError) as refusal:
        from_arguments(["--config", f"{tmp_path}/leafd.toml", "--check-config"])
    assert str(refusal.value).startswith(f"{bad}: {line.split(' = ')[0]}: ")


def test_check_config_says_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "leafd.toml"
    file.write_text("verbose = true\ncgroups_root = 'system.slice/leafd'\n")
    with pytest.raises(SystemExit) as end:
        from_arguments(["--config", str(file), "--check-config"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "leafd: ok\n"


def test_every_flag_is_a_key() -> None:
    flags = set(vars(parser().parse_args([]))) - {"config", "check_config"}
    assert flags
    assert flags <= {field.name for field in fields(Config)}


def test_every_field_is_a_key() -> None:
    config = Config()
    document: dict[str, object] = {field.name: getattr(config, field.name) for field in fields(Config)}
    assert from_document(document, "test", config) == config
