"""``config.toml``: the store's settings, and the tables that it hands on to other rooms."""

from pathlib import Path

import pytest

from ciuic.errors import InvalidConfig
from ciuic.store.config import Config, encode_config, read_config
from ciuic.store.fs import LOCAL


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return read_config(LOCAL, str(path))


def test_a_new_repository_has_the_defaults(tmp_path: Path) -> None:
    """What is written for it reads as what it was, and no table is in it."""
    assert read(tmp_path, encode_config(Config()).decode()) == Config()
    assert Config().retention == {} == Config().triggers


def test_tables_of_other_rooms_are_handed_on(tmp_path: Path) -> None:
    """As plain values, without a look at what they say."""
    config = read(tmp_path, 'chunk_size = 4096\n[retention]\nkeep-last = 5\n[triggers]\nsteps = [1, "a"]\n')
    assert config.retention == {"keep-last": 5} and config.triggers == {"steps": [1, "a"]}
    assert config.chunk_size == 4096


@pytest.mark.parametrize("text", ["[retentoin]\nkeep-last = 5\n", "[a.b]\nc = 1\n"])
def test_unknown_tables_are_errors(tmp_path: Path, text: str) -> None:
    """A word that is spelt wrong must not mean that nothing is kept, or everything."""
    with pytest.raises(InvalidConfig, match="unknown setting"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["retention = 5\n", "triggers = [1]\n"])
def test_a_table_is_a_table(tmp_path: Path, text: str) -> None:
    """And no single value."""
    with pytest.raises(InvalidConfig, match="must be a table"):
        read(tmp_path, text)
