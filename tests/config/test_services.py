"""Tables of services: found by their kind, checked with everything else, and named by login.factors."""

from __future__ import annotations

import pytest

from ldapmfa.config import ServiceTable, load
from ldapmfa.errors import ConfigError

LEAST = """\
[[listen]]
endpoint = "tcp:3389:interface=127.0.0.1"
[directory]
uris = ["ldap://127.0.0.1:10389"]
[login]
factors = ["totp", "webhook"]
[factors.webhook]
url = "https://factors.example.com"
secret = "0123456789abcdef0123456789abcdef"
"""


def mistakes(file, text):
    with pytest.raises(ConfigError) as wrong:
        load(file(text))
    return wrong.value.mistakes


def test_a_table_is_of_its_service(file):
    config = load(file(LEAST))
    table = config.factors["webhook"]
    assert isinstance(table, ServiceTable)
    assert (table.kind, table.username, table.fail_mode) == ("webhook", "{account}", "closed")
    assert config.code_factors == ("totp",)
    assert "0123456789abcdef" not in repr(config)


def test_a_table_may_have_a_name_of_its_own(file):
    text = LEAST.replace("[factors.webhook]", '[factors.paging]\nkind = "webhook"').replace('"totp", "webhook"', '"paging"')
    config = load(file(text))
    assert (list(config.factors), config.factors["paging"].kind) == (["paging"], "webhook")


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("url =", "urll ="), 8, 'factors.webhook.urll: unknown key; did you mean "url"?'),
        (("[factors.webhook]", "[factors.webhok]"), 7, 'factors.webhok: no such factor as "webhok"; did you mean "webhook"?'),
        (("[factors.webhook]", '[factors.mine]\nkind = "totp"'), 7, "factors.mine: totp is computed here and has no settings"),
        (("[factors.webhook]", '[factors.duo]\nkind = "webhook"'), 7, "factors.duo: is the name of another factor"),
        (('"totp", "webhook"', '"totp", "duo"'), 6, 'login.factors[1]: "duo" is a service and needs its settings: add a table [factors.duo]'),
        (('"totp", "webhook"', '"totp", "webhok"'), 6, 'login.factors[1]: no such factor; did you mean "webhook"?'),
        (("secret =", 'username = "alice"\nsecret ='), 9, "factors.webhook.username: must name the user by"),
        (("secret =", 'username = "{account}{upn}"\nsecret ='), 9, "factors.webhook.username: must name the user by"),
        (("secret =", 'username = "{account!r}"\nsecret ='), 9, "factors.webhook.username: must name the user by"),
        (("secret =", 'fail_mode = "safe"\nsecret ='), 9, "factors.webhook.fail_mode: must be 'closed' or 'open'"),
        (("secret =", 'directory = "other"\nsecret ='), 9, "factors.webhook.directory: no directory has this identity_name"),
        (("secret =", 'ca_file = "none.pem"\nsecret ='), 9, "none.pem does not exist"),
    ],
)
def test_mistakes_are_listed_with_their_line(file, change, line, said):
    text = LEAST.replace(*change)
    found = mistakes(file, text)
    assert any(f"ldapmfa.toml:{line}: " in mistake and said in mistake for mistake in found), found
    assert "0123456789abcdef" not in "".join(found)


def test_all_mistakes_are_listed_at_once(file):
    text = LEAST.replace("url =", "urll =").replace("tcp:3389", "tcp:99999").replace("secret =", "secrett =")
    found = "\n".join(mistakes(file, text))
    for key in ("listen[0].endpoint", "factors.webhook.urll", "factors.webhook.secrett"):
        assert key in found


def test_A31_a_service_says_whose_users_it_knows_where_there_are_several_directories(file):
    text = LEAST + '[directories.other]\nuris = ["ldap://127.0.0.1:10390"]\n'
    found = mistakes(file, text)
    assert any("factors.webhook.directory: is missing, and needed" in mistake for mistake in found), found
    config = load(file(text.replace("secret =", 'directory = "other"\nsecret =')))
    assert config.factors["webhook"].directory == "other"


def test_what_is_no_table_is_said(file):
    text = LEAST.partition("[factors.webhook]")[0] + "[factors]\nwebhook = 1\n"
    assert any("factors.webhook: must be a table: write [factors.webhook]" in mistake for mistake in mistakes(file, text))


def test_the_environment_overrides_a_services_table(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_FACTORS__WEBHOOK__USERNAME", "{upn}")
    assert load(file(LEAST)).factors["webhook"].username == "{upn}"


def test_a_mistaken_keyword_is_said(file):
    text = LEAST.replace("[factors.webhook]", 'keywords = {ring = "Duo/Phone!"}\n[factors.webhook]')
    assert any("login.keywords.ring: must be a method" in mistake for mistake in mistakes(file, text))
