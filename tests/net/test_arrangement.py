"""What another configuration takes over, and what it makes anew."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from ldapmfa.net.arrangement import Arrangement, stamps_of


class Account(BaseModel):
    password_file: Path | None = None


class Table(BaseModel):
    """A service's, or a directory's."""

    host: str = "one.test"
    secret_file: Path | None = None
    account: Account = Account()


def configuration(service, directory):
    return SimpleNamespace(factors={"push": service}, every_directory={"default": directory})


def arranged(config):
    every = dict.fromkeys((field.name for field in fields(Arrangement)), ())
    made = {"services": {"push": "the service"}, "directories": {"default": "the directory"}}
    return Arrangement(**{**every, "config": config, "stamps": stamps_of(config), **made})


def left(before, config):
    now = stamps_of(config)
    return {*before.services_left(config, now), *before.directories_left(config, now)}


@pytest.fixture
def table(tmp_path):
    for name in ("secret", "password"):
        (tmp_path / name).write_text("old")
    return Table(secret_file=tmp_path / "secret", account=Account(password_file=tmp_path / "password"))


def test_what_is_said_of_as_before_with_the_same_files_is_taken_over(table):
    config = configuration(table, table)
    assert left(arranged(config), configuration(table.model_copy(), table.model_copy())) == {"push", "default"}


@pytest.mark.parametrize("file", ["secret_file", "account.password_file"])
def test_A44_what_goes_by_a_file_that_has_changed_is_made_anew(table, file):
    """A secret that was replaced because it is known is used no more."""
    config = configuration(table, table)
    before = arranged(config)
    path = table.secret_file if file == "secret_file" else table.account.password_file
    other = path.with_name("other")
    other.write_text("new")
    other.replace(path)
    assert left(before, config) == set()


def test_what_is_said_of_otherwise_or_not_at_all_is_made_anew(table):
    before = arranged(configuration(table, table))
    other = table.model_copy(update={"host": "two.test"})
    assert left(before, configuration(other, table)) == {"default"}
    assert left(before, configuration(table, other)) == {"push"}
    assert left(before, SimpleNamespace(factors={}, every_directory={})) == set()
