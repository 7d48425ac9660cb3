"""What a configuration that is right says."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_network

import pytest
from config.reading import LEAST, VERBATIM
from pydantic import ValidationError

from ldapmfa.config import CodeForm, Config, Directory, DirectoryUri, Listen, load
from ldapmfa.errors import ConfigError


def test_the_configuration_of_the_issue_loads_verbatim(file, tmp_path):
    config = load(file(VERBATIM))
    (listener,) = config.listen
    assert listener.endpoint == listener.name == "tcp:3389:interface=127.0.0.1"
    assert not listener.tls_required
    assert config.directory_of(listener).servers == (DirectoryUri(tls=False, host="127.0.0.1", port=10389),)
    assert config.directory_of(listener).identity_name == "default"
    assert config.store.url == f"sqlite:///{tmp_path}/state.db"
    assert config.store.sqlite_file == tmp_path / "state.db"
    assert config.store.key_file == tmp_path / "store.key"
    assert config.login.factors == ("totp",)
    assert config.code_form(listener) == CodeForm("suffix", 6, ",")
    assert config.exempt[0].networks == (ip_network("127.0.0.0/8"),)
    assert config.source == tmp_path / "ldapmfa.toml"


def test_defaults_are_those_of_the_design(file):
    config = load(file(LEAST))
    assert config.login.model_dump() == {
        "factors": ("totp",),
        "code": "suffix",
        "code_digits": 6,
        "delimiter": ",",
        "require_user_match": "refuse",
        "grace_days": 14,
        "timezone": "",
        "refusal_floor": 0.25,
        "deadline": 30,
        "issuer": "ldapmfa",
        "keywords": {"push": "push", "phone": "phone", "sms": "sms"},
        "prompts": 5,
        "prompt_seconds": 600,
    }
    assert config.throttle.model_dump() == {
        "wrong_codes": 10,
        "lock_seconds": 900,
        "longest_lock_seconds": 86400,
        "wrong_passwords": 4,
        "wrong_password_seconds": 900,
        "source_wrong_passwords": 100,
        "wrong_passwords_a_minute": 600,
        "gateways": (),
    }
    assert config.limits.model_dump() == {
        "connections": 10000,
        "frame_before_bind": 65536,
        "frame_after_bind": 1048576,
        "held_requests": 100,
        "held_bytes": 262144,
        "buffered_bytes": 268435456,
        "handshake_timeout": 10,
        "bind_timeout": 120,
        "frame_timeout": 30,
        "idle_timeout": 840,
        "write_timeout": 120,
        "pending_logins": 5000,
        "source_connections": 2500,
        "source_pending_logins": 2500,
        "source_buffered_bytes": 64 << 20,
    }
    assert config.service.workers == 1
    assert (config.log.format, config.log.level) == ("auto", "info")
    assert config.directory.verify_certificate
    assert (config.directory.connect_timeout, config.directory.response_timeout) == (5, 10)
    assert config.store.migrate


def test_settings_are_frozen(file):
    config = load(file(LEAST))
    for table in (config, config.login, config.listen[0]):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(table, next(iter(type(table).model_fields)), None)


def test_a_config_made_directly_reads_no_environment(monkeypatch):
    monkeypatch.setenv("LDAPMFA_LOGIN__CODE_DIGITS", "8")
    config = Config(listen=(Listen(endpoint="tcp:0"),), directory=Directory(uris=("ldap://[::1]",)))
    assert config.login.code_digits == 6
    assert config.source is None
    network = ip_network("10.0.0.0/8")
    assert Listen(endpoint="tcp:0", proxy_protocol_from=(network,)).proxy_protocol_from == (network,)


def test_an_absolute_sqlite_file_stays(file, tmp_path):
    config = load(file(LEAST + f'[store]\nurl = "sqlite:///{tmp_path}/a/b.db?x=1"\n'), check_files=False)
    assert config.store.sqlite_file == tmp_path / "a/b.db"
    assert config.store.url.endswith("/a/b.db?x=1")


def test_a_listener_overrides_the_form_of_codes(file):
    config = load(
        file(LEAST.replace("[directory]", 'code = "delimiter"\ncode_digits = 8\ndelimiter = ";"\n[directory]'))
    )
    assert config.code_form(config.listen[0]) == CodeForm("delimiter", 8, ";")


def test_several_directories_may_share_an_identity_name(file):
    text = (
        '[[listen]]\nendpoint = "tcp:1389:interface=127.0.0.1"\ndirectory = "corp"\n'
        '[[listen]]\nendpoint = "tcp:1390:interface=127.0.0.1"\ndirectory = "corp-gc"\n'
        '[directories.corp]\nuris = ["ldaps://dc1.example.com"]\nglobal_catalog = "ldaps://dc1.example.com"\n'
        '[directories.corp-gc]\nuris = ["ldap://dc1.example.com:3268"]\nidentity_name = "corp"\n'
    )
    config = load(file(text))
    assert config.directory is None
    assert list(config.every_directory) == ["corp", "corp-gc"]
    assert {directory.identity_name for directory in config.every_directory.values()} == {"corp"}
    assert config.directory_of(config.listen[0]).global_catalog_server == DirectoryUri(
        tls=True, host="dc1.example.com", port=3269
    )
    assert config.directory_of(config.listen[1]).global_catalog_server is None


def test_the_service_accounts_password_comes_from_its_file_each_time(file, tmp_path):
    (tmp_path / "pw").write_text("häsh\r\n")
    text = LEAST + '[directory.service_account]\ndn = "cn=reader"\npassword_file = "pw"\n'
    account = load(file(text)).directory.service_account
    assert account.secret().reveal() == "häsh".encode()
    (tmp_path / "pw").write_text("new")
    assert account.secret().reveal() == b"new"


def test_a_password_never_shows(file):
    config = load(file(LEAST + '[directory.service_account]\ndn = "cn=reader"\npassword = "hush"\n'))
    assert config.directory.service_account.secret().reveal() == b"hush"
    assert "hush" not in repr(config) + str(config.model_dump()) + config.model_dump_json()


def test_what_reads_the_environment_is_imported_only_if_it_says_something(file):
    code = f"import sys; from pathlib import Path; from ldapmfa import config; config.load(Path({str(file(LEAST))!r}))"
    code += "; print('pydantic_settings' in sys.modules)"
    for more, imported in (({}, "False"), ({"ldapmfa_log__level": "debug"}, "True")):
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **more}
        )
        assert ran.stdout.strip() == imported


def test_no_twisted_is_imported():
    code = "import sys, ldapmfa.config; sys.exit(any(name.startswith('twisted') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("written", "number"), [("1", 1), ("256", 256), ('"auto"', len(os.sched_getaffinity(0)))])
def test_workers_are_counted_or_one_for_each_processor(file, written, number):
    assert load(file(f"{LEAST}[service]\nworkers = {written}\n")).service.workers == number


def test_workers_from_the_environment(file, monkeypatch):
    for written, number in (("3", 3), ("auto", len(os.sched_getaffinity(0)))):
        monkeypatch.setenv("LDAPMFA_SERVICE__WORKERS", written)
        assert load(file(LEAST)).service.workers == number


def test_what_the_file_said_is_read_again_from_memory(file):
    config = load(file(LEAST))
    file("nothing that could be read")
    assert config.text == LEAST
    assert load(config.source, text=config.text) == config


def test_the_databases_password_is_in_one_place(file, tmp_path):
    secret = tmp_path / "database.password"
    secret.write_text("hunter2\n")
    server = 'url = "postgresql+asyncpg://u{}@127.0.0.1/d"\n'
    named = f'password_file = "{secret}"\n'
    config = load(file(LEAST + "[store]\n" + server.format("") + named), check_files=False)
    assert config.store.password().reveal() == b"hunter2"
    assert config.store.sqlite_file is None
    config = load(file(LEAST + "[store]\n" + server.format(":own")), check_files=False)
    assert config.store.password().reveal() == b"own"
    for text in (server.format(":own") + named, f'url = "sqlite:///state.db"\n{named}'):
        with pytest.raises(ConfigError, match=r"store\.password_file: "):
            load(file(LEAST + "[store]\n" + text), check_files=False)


def test_a_file_that_the_databases_url_names_must_be_there(file, tmp_path):
    text = f'[store]\nurl = "postgresql+asyncpg://u@h/d?sslrootcert={tmp_path}/none"\n'
    with pytest.raises(ConfigError, match=r"store\.url: sslrootcert: .*none does not exist"):
        load(file(LEAST + text))
