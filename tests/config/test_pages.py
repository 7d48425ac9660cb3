"""The pages made from the classes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ldapmfa.config import Config, conf_text, load, reference_text
from ldapmfa.config.pages import example, sections
from ldapmfa.config.plugins import own_tables
from ldapmfa.config.settings import class_in


@pytest.mark.parametrize(
    ("path", "made", "argument"),
    [
        ("conf/ldapmfa.toml", conf_text, "conf"),
        ("docs/reference/configuration.md", reference_text, "reference"),
    ],
)
def test_the_pages_made_from_the_classes_are_up_to_date(path, made, argument):
    assert (Path(__file__).parents[2] / path).read_text() == made(), f"python -m ldapmfa.config {argument} > {path}"
    run = subprocess.run([sys.executable, "-m", "ldapmfa.config", argument], capture_output=True, text=True, check=True)
    assert run.stdout == made()


def uncommented():
    return re.sub(r"(?m)^#(?=[^ ])", "", conf_text())


def test_the_example_is_all_comments_and_parses_when_uncommented():
    assert tomllib.loads(conf_text()) == {}
    data = tomllib.loads(uncommented())
    services = data.pop("factors")
    config = Config(**data)
    data["factors"] = services
    assert set(services) == set(own_tables())
    for kind, table in own_tables().items():
        assert set(services[kind]) == set(table.model_fields), f"[factors.{kind}] shows every option"
    assert set(data) == set(Config.model_fields)
    for name, field in Config.model_fields.items():
        table = class_in(field.annotation)
        given = data[name][0] if isinstance(data[name], list) else data[name]
        if name in {"directories", "factors"}:
            continue
        assert set(given) == set(table.model_fields), f"[{name}] shows every option"
        for key, option in table.model_fields.items():
            default = option.get_default(call_default_factory=True)
            if not option.is_required() and default not in (None, "") and not option.examples:
                mine = getattr(config, name)
                mine = mine[0] if isinstance(mine, tuple) else mine
                assert getattr(mine, key) == default, f"{name}.{key} is shown at its default"


def test_the_example_loads_without_what_excludes_each_other(file):
    text = uncommented()
    for line in ("certificate = ", "key = ", "password = ", "require_tls = ", "secret = ", "secret_key = ", "token(_file)? = ", "api_key = ",
                 'password_file = "/etc/ldapmfa/database', "client_secret = ", "proxy = ", "(client_)?ca_file = ", "require_client_certificate = ", "srv_domains = ", "nameservers = "):
        text = re.sub(rf"(?m)^{line}.*$", "", text)
    assert load(file(text), check_files=False)


def test_every_option_is_described_in_a_sentence():
    for _, prose, table in sections():
        assert prose
        for name, field in table.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name
            assert example(field) is not None or class_in(field.annotation), name
