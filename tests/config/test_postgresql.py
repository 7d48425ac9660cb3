"""URLs of PostgreSQL databases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldapmfa.config.postgresql import DatabaseUrl


@pytest.mark.parametrize(
    ("url", "hosts", "tls"),
    [
        ("postgresql+asyncpg://u@db.example.com/d", (("db.example.com", 5432),), "verify-full"),
        ("postgresql://u@db.example.com:6000/d", (("db.example.com", 6000),), "verify-full"),
        ("postgresql+asyncpg://u@/d", (("/run/postgresql", 5432),), "disable"),
        ("postgresql+asyncpg:///d?host=/tmp/x&port=6000", (("/tmp/x", 6000),), "disable"),
        ("postgresql+asyncpg://u@127.0.0.1/d", (("127.0.0.1", 5432),), "disable"),
        ("postgresql+asyncpg://u@[::1]:6000/d", (("::1", 6000),), "disable"),
        ("postgresql+asyncpg://u@[fd00::5]/d", (("fd00::5", 5432),), "verify-full"),
        ("postgresql+asyncpg://u@127.0.0.1/d?sslrootcert=/ca.pem", (("127.0.0.1", 5432),), "verify-full"),
        ("postgresql+asyncpg://u@/d?host=a:1&host=b", (("a", 1), ("b", 5432)), "verify-full"),
        ("postgresql+asyncpg://u@a:1,b:2/d?ssl=require", (("a", 1), ("b", 2)), "require"),
        ("postgresql+asyncpg://u@a/d?sslmode=verify-ca&target_session_attrs=read-write", (("a", 5432),), "verify-ca"),
        ("postgresql+asyncpg://u@localhost,b/d", (("localhost", 5432), ("b", 5432)), "verify-full"),
    ],
)
def test_where_it_leads(url, hosts, tls):
    parsed = DatabaseUrl.parse(url)
    assert (parsed.hosts, parsed.tls, parsed.database) == (hosts, tls, "d")


def test_user_and_password_are_unquoted_and_the_password_does_not_show():
    parsed = DatabaseUrl.parse("postgresql+asyncpg://l%40x:p%40%2F%3A:w@h/d")
    assert (parsed.user, parsed.password.reveal()) == ("l@x", b"p@/::w")
    assert "p@" not in repr(parsed)
    assert DatabaseUrl.parse("postgresql://u@h/d").password is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg2://u:hunter2@h/d", "its driver is postgresql+psycopg2"),
        ("postgres://u:hunter2@h/d", "its driver is postgres"),
        ("postgresql+asyncpg://u:hunter2@h", "must name a database"),
        ("postgresql+asyncpg://u:hunter2@h/", "must name a database"),
        ("postgresql+asyncpg://u:hunter2/x@h/d", "%2F"),
        ("postgresql+asyncpg://u:hunter2@h:x/d", "a port is no number"),
        ("postgresql+asyncpg://u:hunter2@h:99999/d", "a port is no number"),
        ("postgresql+asyncpg://u:hunter2@:1/d", "a host has no name"),
        ("postgresql+asyncpg://u:hunter2@h/d?port=1,2", "several ports"),
        ("postgresql+asyncpg://u:hunter2@h/d?ssl=prefer", "anybody between could switch off"),
        ("postgresql+asyncpg://u:hunter2@h/d?ssl=require&sslmode=require", "both ssl and sslmode"),
        ("postgresql+asyncpg://u:hunter2@h/d?ssl=require&ssl=require", "says ssl twice"),
        ("postgresql+asyncpg://u:hunter2@h/d?sslrootcert=ca.pem", "sslrootcert: must be an absolute path"),
        ("postgresql+asyncpg://u:hunter2@h/d?pool_size=5", "pool_size is no option"),
        ("postgresql+asyncpg://u:hunter2@h/d?target_session_attrs=any", "target_session_attrs"),
        ("postgresql+asyncpg://u:hunter2@h/d#x", "%23"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url, says):
    with pytest.raises(ValueError, match=says.replace("+", r"\+")) as caught:
        DatabaseUrl.parse(url)
    assert "hunter2" not in str(caught.value)


@given(st.text(alphabet="abc:/@?&=%[],#.0123456789 \u00e9"))
def test_any_text_is_a_url_or_a_mistake(text):
    try:
        parsed = DatabaseUrl.parse(f"postgresql://{text}")
    except ValueError:
        return
    assert parsed.hosts
    assert parsed.database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg:ldapmfa:hunter2@db/ldapmfa",
        "postgresql+asyncpg:/ldapmfa:hunter2@db/ldapmfa",
        "postgresql+asyncpg://ldapmfa:so?hunter2@db/ldapmfa",
        "postgresql+asyncpg://ldapmfa:so?hunter2=x@db/ldapmfa",
        "postgresql+asyncpg://ldapmfa:so?ssl=hunter2@db/ldapmfa",
        "postgresql+asyncpg://ldapmfa:12/hunter2@db",
        "postgresql+asyncpg://ldapmfa:so/hunter2@db/ldapmfa",
        "postgresql+asyncpg://ldapmfa:so#hunter2@db/ldapmfa",
    ],
)
def test_A43_a_password_that_is_not_written_as_a_url_has_it_is_in_no_message(url):
    with pytest.raises(ValueError, match=r"://|%") as caught:
        DatabaseUrl.parse(url)
    assert "hunter2" not in str(caught.value)
