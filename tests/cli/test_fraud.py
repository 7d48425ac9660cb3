"""`ldapmfa fraud test`, and what [fraud] may say."""

import pytest
from cli.conftest import CONFIGURATION
from fakes.mail import Mail
from fakes.web import Web, nobody

from ldapmfa.config import load
from ldapmfa.errors import ConfigError

KEY = "0123456789abcdef0123456789abcdef"


def configure(program, port, *lines):
    file = program.directory / "ldapmfa.toml"
    file.write_text("\n".join([CONFIGURATION.format(port=port), "[fraud]", *lines]))
    return file


class TestFraudTest:
    def test_it_says_of_every_way_what_happened(self, ldapmfa, port, tmp_path):
        async def answer(_request):
            return 200, {}, b""

        (tmp_path / "secret").write_text(KEY)
        with Mail(tmp_path) as mail, Web(tmp_path, answer) as web:
            configure(
                ldapmfa, port, 'mail_to = ["desk@example.com"]', 'mail_from = "ldapmfa@example.com"',
                'smtp_host = "localhost"', f"smtp_port = {mail.port}", f'smtp_ca_file = "{mail.ca_file}"',
                f'webhook_url = "{web.url}"', 'webhook_secret_file = "secret"', f'webhook_ca_file = "{web.ca_file}"',
            )  # fmt: skip
            ran = ldapmfa("fraud", "test")
            assert (ran.code, ran.err) == (0, "")
            assert ran.out.count(": delivered: ") == 2
            assert b"This is a test" in mail.received[0][2]
            assert web.requests[0].json()["what"] == "test"

    def test_one_that_does_not_work_ends_with_3(self, ldapmfa, port):
        with nobody() as closed:
            configure(
                ldapmfa, port, 'mail_to = ["desk@example.com"]', 'mail_from = "ldapmfa@example.com"',
                'smtp_host = "localhost"', f"smtp_port = {closed}",
            )  # fmt: skip
            ran = ldapmfa("fraud", "test", "--json")
        assert ran.code == 3
        assert ran.json["ways"][0]["delivered"] is False
        assert f"localhost:{closed}" in ran.json["ways"][0]["what"]

    def test_with_nobody_to_tell_it_ends_with_2(self, ldapmfa):
        ran = ldapmfa("fraud", "test")
        assert (ran.code, "tells nobody" in ran.err) == (2, True)


MAIL = ('mail_to = ["desk@example.com"]', 'mail_from = "l@example.com"', 'smtp_host = "mail.example.com"')


class TestSettings:
    @pytest.mark.parametrize(
        ("lines", "key"),
        [
            ((MAIL[0], MAIL[2]), "fraud.mail_from"),
            (MAIL[:2], "fraud.smtp_host"),
            ((*MAIL, 'smtp_tls = "none"'), "fraud.smtp_tls"),
            ((*MAIL, 'smtp_user = "x"'), "fraud.smtp_password_file"),
            ((*MAIL, 'smtp_password_file = "secret"'), "fraud.smtp_password_file"),
            ((*MAIL, "block_days = 0"), "fraud.block_days"),
            (('mail_to = ["Desk <desk@example.com>"]', *MAIL[1:]), "fraud.mail_to"),
            (('mail_to = ["desk@example.com\\r\\nBcc: eve@example.com"]', *MAIL[1:]), "fraud.mail_to"),
            (('webhook_url = "https://soc.example.com"',), "fraud.webhook_secret_file"),
            (('webhook_secret_file = "secret"',), "fraud.webhook_secret_file"),
            (('webhook_url = "https://soc.example.com"', 'webhook_secret_file = "short"'), "fraud.webhook_secret_file"),
            (('webhook_url = "http://soc.example.com"', 'webhook_secret_file = "secret"'), "fraud.webhook_url"),
        ],
    )
    def test_what_does_not_go_together_is_a_mistake(self, ldapmfa, port, tmp_path, lines, key):
        (tmp_path / "secret").write_text(KEY)
        (tmp_path / "short").write_text("short")
        file = configure(ldapmfa, port, *lines)
        with pytest.raises(ConfigError) as wrong:
            load(file)
        assert len(wrong.value.mistakes) == 1
        assert key in wrong.value.mistakes[0]

    def test_what_goes_together_is_none(self, ldapmfa, port, tmp_path):
        (tmp_path / "secret").write_text(KEY)
        local = 'smtp_host = "127.0.0.1"'
        for lines, ways in (
            ((), ()),
            (MAIL, ("mail",)),
            ((*MAIL[:2], local, 'smtp_tls = "none"'), ("mail",)),
            ((*MAIL, 'smtp_user = "x"', 'smtp_password_file = "secret"'), ("mail",)),
            ((*MAIL, 'webhook_url = "https://x.example.com"', 'webhook_secret_file = "secret"'), ("mail", "webhook")),
        ):
            assert load(configure(ldapmfa, port, *lines)).fraud.ways == ways
