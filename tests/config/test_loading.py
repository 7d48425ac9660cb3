"""The file and the environment, and every mistake in one: what is said, about which key, on which line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from config.reading import LEAST, VERBATIM, forbid, mistakes, only
from hypothesis import given, settings
from hypothesis import strategies as st

from ldapmfa.config import PLACES, Config, Directory, Listen, load, loading
from ldapmfa.errors import ConfigError


def test_the_default_places_are_tried_in_order(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "etc.toml"
    monkeypatch.setattr(loading, "PLACES", (Path("ldapmfa.toml"), elsewhere))
    elsewhere.write_text(LEAST)
    assert load(check_files=False).source == elsewhere
    assert load(file(LEAST)) is not None
    assert load().source == tmp_path / "ldapmfa.toml"


def test_without_a_file_both_places_and_init_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "PLACES", (Path("ldapmfa.toml"), Path("/nowhere/ldapmfa.toml")))
    with pytest.raises(ConfigError) as caught:
        load()
    (line,) = caught.value.mistakes
    assert f"{tmp_path}/ldapmfa.toml nor /nowhere/ldapmfa.toml" in line
    assert "`ldapmfa init`" in line


def test_the_places_are_those_of_the_issue():
    assert list(PLACES) == [Path("ldapmfa.toml"), Path("/etc/ldapmfa/ldapmfa.toml")]


def test_a_named_file_that_is_missing_a_directory_or_forbidden(tmp_path, monkeypatch):
    assert "`ldapmfa init` writes one" in only(tmp_path / "none.toml")
    (tmp_path / "dir.toml").mkdir()
    assert only(tmp_path / "dir.toml") == "dir.toml: the configuration is a directory, where a file is needed"
    forbid(monkeypatch, "secret.toml")
    assert only(tmp_path / "secret.toml").startswith("secret.toml: the configuration can't be read by user id")


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"[login]\ncode = suffix\n", "ldapmfa.toml:2: not valid TOML: "),
        (b"[login]\nfactors = [\n", "ldapmfa.toml:3: not valid TOML: "),
        (b"[login]\n[login]\n", "ldapmfa.toml:2: not valid TOML: "),
        (b"[login]\n\n# \xff\n", "ldapmfa.toml:3: not UTF-8"),
    ],
)
def test_what_is_no_toml_is_a_mistake_with_a_line(file, octets, said):
    path = file("")
    path.write_bytes(octets)
    assert only(path).startswith(said)


# --- mistakes of single keys --


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[login]\ncode_digts = 8", '6: login.code_digts: unknown key; did you mean "code_digits"?'),
        ("[login]\nzzz = 8", "6: login.zzz: unknown key; known: factors, code, code_digits, "),
        ("[logn]\ncode_digits = 8", '5: logn: unknown key; did you mean "login"?'),
        ("[login]\ncode_digits = 7", "6: login.code_digits: must be 6 or 8"),
        ("[[listen]]\nendpoint = 'unix:x'\ncode_digits = 7", "7: listen[1].code_digits: must be 6 or 8"),
        ('[login]\ncode_digits = "8"', "6: login.code_digits: must be 6 or 8"),
        ("[limits]\nconnections = true", "6: limits.connections: must be a whole number, without quotes"),
        ("[limits]\nconnections = '7'", "6: limits.connections: must be a whole number, without quotes"),
        ('[login]\n\n\ncode = "sufix"', "8: login.code: must be 'suffix' or 'delimiter'"),
        ("[login]\ncode = 5", "6: login.code: must be 'suffix' or 'delimiter'"),
        ('[login]\ndelimiter = "ab"', "6: login.delimiter: must be one ASCII punctuation character, but not"),
        ('[login]\ndelimiter = "-"', "6: login.delimiter: must be one ASCII punctuation character"),
        ('[login]\ndelimiter = "7"', "6: login.delimiter: must be one ASCII punctuation character"),
        ('[login]\nfactors = ["totpp"]', '6: login.factors[0]: no such factor; did you mean "totp"?'),
        ('[login]\nfactors = "totp"', '6: login.factors: must be a list, for example factors = ["totp"]'),
        ("[login]\nfactors = []", '6: login.factors: must not be empty, for example factors = ["totp"]'),
        ("[login]\nfactors = [1]", "6: login.factors[0]: must be a string in quotes"),
        ('[login]\nissuer = " "', "6: login.issuer: must not be empty"),
        ("[login]\ndeadline = -1", "6: login.deadline: must be greater than 0"),
        ("[login]\ndeadline = nan", "6: login.deadline: must be a finite number"),
        ('[login]\ndeadline = "30"', "6: login.deadline: must be a number, without quotes"),
        ("[login]\nrefusal_floor = 11", "6: login.refusal_floor: must be less than or equal to 10"),
        ("[service]\nworkers = 0", '6: service.workers: must be a whole number from 1 to 256, or "auto"'),
        ("[service]\nworkers = 257", '6: service.workers: must be a whole number from 1 to 256, or "auto"'),
        ("[service]\nworkers = true", '6: service.workers: must be a whole number from 1 to 256, or "auto"'),
        ("[service]\nworkers = '2'", '6: service.workers: must be a whole number from 1 to 256, or "auto"'),
        ("[limits]\nframe_after_bind = 10485761", "6: limits.frame_after_bind: must be less than or equal to 10485760"),
        ("login = 5", "5: directory.login: unknown key; known: uris, "),
        ("[[login]]\ncode_digits = 6", "5: login: must be a table: write [login]"),
        ("[exempt]\naccount = 'x'", "5: exempt: must be a list of tables, of one at least: write [[exempt]]"),
        ("[[exempt]]", "5: exempt[0].account: is missing, and needed, for example account = "),
        ("[[exempt]]\naccount = ''", "6: exempt[0].account: must not be empty"),
        ("[[exempt]]\naccount = 'x'\nnetworks = []", '7: exempt[0].networks: must not be empty, for example networks = ["10.1.0.0/16"]'),
        ("[[exempt]]\naccount = 'x'\nnetworks = ['10.0.0.1/8']", "7: exempt[0].networks[0]: must be a network or an address"),
        ("[[exempt]]\naccount = 'x'\nnetworks = ['a/b']", "7: exempt[0].networks[0]: must be a network or an address"),
        ("[[exempt]]\naccount = 'x'\nnetworks = [7]", "7: exempt[0].networks[0]: must be a network or an address"),
        ("[[exempt]]\naccount = 'x'\ndirectory = 'crop'", "7: exempt[0].directory: no directory has this identity_name; known: default"),
        ('[store]\nurl = "mysql://x"', "6: store.url: must begin with sqlite:///"),
        ('[store]\nurl = "sqlite://state.db"', "6: store.url: must name a SQLite file behind three slashes"),
        ('[store]\nurl = "sqlite:///:memory:"', "6: store.url: must name a SQLite file"),
        ('[store]\nmigrate = "yes"', "6: store.migrate: must be true or false, without quotes"),
        ("[store]\nkey_file = 5", "6: store.key_file: must be a path in quotes"),
        ("[store]\nkey_file = 'none.key'", "6: store.key_file: none.key does not exist; `ldapmfa init` makes it"),
        ("[store]\nkey_file = '.'", "6: store.key_file: "),
        ("[store]\nurl = 'sqlite:///sub/state.db'", "6: store.url: there is no directory sub: create it, or name another"),
        ("kind = 'ad'", "5: directory.kind: must be 'auto', 'active-directory', 'openldap' or '389-ds'"),
        ("verify_certificate = 1", "5: directory.verify_certificate: must be true or false, without quotes"),
        ("identity_name = 'a/b'", "5: directory.identity_name: must consist of small letters"),
        ("global_catalog = 'dc1:3268'", "5: directory.global_catalog: must begin with ldap:// or ldaps://"),
        ("ca_file = 'none.pem'", "5: directory.ca_file: none.pem does not exist"),
        ("ca_file = 'store.key'", "5: directory.ca_file: store.key holds no PEM certificate"),
        ("service_account = 'x'", "5: directory.service_account: must be a table: write [directory.service_account]"),
        ("[directory.service_account]\ndn = 'x'\npassword_file = 'none'", "7: directory.service_account.password_file: none does not exist"),
        ("[directories.Corp]\nuris = ['ldap://x']", "5: directories.Corp: must consist of small letters"),
        ("[directories.default]\nuris = ['ldap://x']", '5: directories.default: the directory named "default" is the table [directory]'),
        ("[directories.corp]", "5: directories.corp.uris: is missing, and needed, for example uris = ["),
        ("directories = 7", "5: directory.directories: unknown key"),
        ("[log]\nlevel = 'inof'", "6: log.level: must be 'debug', 'info', 'warning' or 'error'"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line_with_its_key_its_line_and_what_would_be_right(file, more, said):
    assert only(file(f"{LEAST}{more}\n")).startswith(f"ldapmfa.toml:{said}")


# --- all of them --


def test_all_mistakes_come_at_once(file):
    text = """\
[[listen]]
endpoint = "tcp:ldap"
tls = "ldaps"
certificate = "none.pem"

[[listen]]
nmae = "second"
endpoint = "tcp:636"

[[listen]]
endpoint = "tcp:637:interface=127.0.0.1"
directory = "corp"

[directory]
uris = [
  "ldap://good",
  "http://bad",
]
starttls = "yes"

[directory.service_account]
dn = "cn=reader"
pasword = "hush"

[store]
key_file = "none.key"

[login]
code_digits = "hush"
factors = ["totp"]
"what\\never" = 1

[limits]
connections = 0

[speed]
"""
    found = mistakes(file(text))
    assert [line.split(": ")[:2] for line in found] == [
        ["ldapmfa.toml:1", "listen[0].key"],
        ["ldapmfa.toml:2", "listen[0].endpoint"],
        ["ldapmfa.toml:4", "listen[0].certificate"],
        ["ldapmfa.toml:6", "listen[1].require_tls"],
        ["ldapmfa.toml:7", "listen[1].nmae"],
        ["ldapmfa.toml:12", "listen[2].directory"],
        ["ldapmfa.toml:15", "directory.uris[1]"],
        ["ldapmfa.toml:19", "directory.starttls"],
        ["ldapmfa.toml:21", "directory.service_account.password"],
        ["ldapmfa.toml:23", "directory.service_account.pasword"],
        ["ldapmfa.toml:26", "store.key_file"],
        ["ldapmfa.toml:29", "login.code_digits"],
        ["ldapmfa.toml:31", 'login."what\\never"'],
        ["ldapmfa.toml:34", "limits.connections"],
        ["ldapmfa.toml:36", "speed"],
    ]
    assert not any("hush" in line for line in found)


def test_what_goes_with_a_mistaken_key_is_not_looked_at(file):
    text = LEAST.replace("[directory]", 'tls = "sttls"\n[directory]')
    assert only(file(text)).startswith("ldapmfa.toml:3: listen[0].tls: ")
    assert [line.split(": ")[1] for line in mistakes(file("listen = [5, {tls = 7}]\ndirectory = 6\n"))] == [
        "listen[0]",
        "listen[1].endpoint",
        "listen[1].tls",
        "directory",
    ]


def test_keywords_of_pydantic_settings_are_unknown_keys(file):
    assert only(file("_env_file = 'x'\n" + LEAST)).startswith("ldapmfa.toml:1: _env_file: unknown key")


def test_control_characters_do_not_reach_the_terminal(file):
    line = only(file('"\\u001b[31m\\n" = 1\n' + LEAST))
    assert line.isprintable()


@settings(deadline=None)  # the first example waits for entry points and a cold disk
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        [*Config.model_fields, *Listen.model_fields, *Directory.model_fields, "dn", "x"]), inner, max_size=3),
                    max_leaves=8))  # fmt: skip
def test_any_values_at_all_end_in_mistakes_or_a_config(value):
    data = value if isinstance(value, dict) else {"listen": value, "directory": value, "directories": value}
    config, found = loading.validated(json.loads(json.dumps(data)), Path("/nowhere"), check_files=True)
    assert (config is None) == bool(found)
    assert all(loading._shown(Path("f"), 0, where, wrong).isprintable() for where, wrong in found)


# --- the environment --


def test_the_environment_overrides_the_file(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_LOGIN__CODE_DIGITS", "8")
    monkeypatch.setenv("LDAPMFA_LOGIN__DEADLINE", "12.5")
    monkeypatch.setenv("LDAPMFA_LOGIN__FACTORS", '["totp", "hotp"]')
    monkeypatch.setenv("LDAPMFA_DIRECTORY__SERVICE_ACCOUNT__DN", "cn=reader")
    monkeypatch.setenv("LDAPMFA_DIRECTORY__SERVICE_ACCOUNT__PASSWORD", "hush")
    monkeypatch.setenv("LDAPMFA_DIRECTORIES__CORP__URIS", '["ldaps://dc1"]')
    monkeypatch.setenv("LDAPMFA_STORE__MIGRATE", "false")
    monkeypatch.setenv("LDAPMFA_LISTEN", '[{"endpoint": "unix:x", "code_digits": 6}]')
    config = load(file(VERBATIM))
    assert (config.login.code_digits, config.login.deadline) == (8, 12.5)
    assert config.login.factors == ("totp", "hotp")
    assert config.login.code == "suffix"
    assert config.directory.uris == ("ldap://127.0.0.1:10389",)
    assert config.directory.service_account.secret().reveal() == b"hush"
    assert config.every_directory["corp"].identity_name == "corp"
    assert not config.store.migrate
    assert [listener.where.kind for listener in config.listen] == ["unix"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LDAPMFA_LOGIN__CODE_DIGITS", "7", "login.code_digits: must be 6 or 8"),
        ("LDAPMFA_LOGIN__CODE_DIGITS", "x", "login.code_digits: must be 6 or 8"),
        ("LDAPMFA_LOGIN__DEADLINE", "soon", "login.deadline: must be a number"),
        ("LDAPMFA_LOGIN__CODE_DIGTS", "8", 'login.code_digts: unknown key; did you mean "code_digits"?'),
        ("LDAPMFA_LOGIN__FACTORS", "totp", "login.factors: must be a list, for example factors = "),
        ("LDAPMFA_LOGIN", "{", "login: must be a table"),
        ("LDAPMFA_LOGIN", '{"code_digits": 7}', "login.code_digits: must be 6 or 8"),
        ("LDAPMFA_LISTEN", '[{"endpoint": "tcp:1"}]', "listen[0].require_tls: is true by default"),
        ("LDAPMFA_STORE__MIGRATE", "maybe", "store.migrate: must be true or false"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(file, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    assert only(file(LEAST)).startswith(f"environment variable {variable}: {said}")


def test_a_mistake_beside_an_environment_value_is_the_files(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_LOGIN__CODE", "delimiter")
    assert only(file(LEAST + "[login]\ncode_digits = 7\n")).startswith("ldapmfa.toml:6: login.code_digits")


def test_a_variable_for_others_is_left_alone(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_CONFIG", "x")
    assert load(file(LEAST))


# --- lines --


def test_every_key_is_found_on_its_line():
    text = (
        'top = 1\r\n\r\n[a]  # [x]\nb.c = 2\n"d e" = """\n[no]\nf = 1\n"""\ng = [\n  1,\n  {h = 2},\n]\n'
        "[[i]]\nj = 1\n[i.k]\nl = 1\n[[i]]\n\nj = 2\n[[i.m]]\nn = 1\n[a.o]\np = {q = {r = 1}}\n"
    )
    data = tomllib.loads(text)

    def line(*where):
        return loading._line(text, data, where)

    assert line("top") == 1
    assert line("a") == 3
    assert line("a", "b", "c") == 4
    assert line("a", "d e") == 5
    assert line("a", "g") == line("a", "g", 1, "h") == 9
    assert line("i", 0) == 13
    assert line("i", 0, "j") == 14
    assert line("i", 0, "k", "l") == 16
    assert line("i", 1) == 17
    assert line("i", 1, "j") == 19
    assert line("i", 1, "m", 0, "n") == 21
    assert line("a", "o", "p", "q", "r") == 23
    assert line("no") == line("x") == 0
    assert line("a", "no") == 3
