"""What was typed: how it is taken apart, and that it does not show."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldapmfa.core.secret import CodeForm, Secret, Typed, is_usable, split

FAST = settings(deadline=None, max_examples=200)
SUFFIX = CodeForm()
COMMA = CodeForm(delimiter=b",")


def taken_apart(typed: bytes, form: CodeForm = SUFFIX):
    result = split(Secret(typed), form)
    return result.password.reveal(), result.code.reveal() if result.code else None


def test_a_secret_does_not_show():
    secret = Secret(b"hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>30}", repr(Typed(secret, secret)), repr([secret])):
        assert "hunter2" not in shown
        assert "***" in shown


def test_a_secret_is_not_written_anywhere():
    for write in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            write(Secret(b"x"))
    with pytest.raises(TypeError):
        hash(Secret(b"x"))
    assert not hasattr(Secret(b"x"), "__dict__")


def test_secrets_are_compared():
    assert Secret(b"x") == Secret(b"x")
    assert Secret(b"x") != Secret(b"y")
    assert Secret(b"x") != b"x"
    assert Secret(b"x")
    assert not Secret(b"")
    assert Secret(b"x").reveal() == b"x"


@pytest.mark.parametrize(
    ("typed", "password", "code"),
    [
        (b"secret123456", b"secret", b"123456"),
        (b"secret12345", b"secret12345", None),
        (b"secret1234567", b"secret1", b"234567"),
        (b"secret 123456", b"secret ", b"123456"),
        (b"secret12 3456", b"secret12 3456", None),
        (b"123456", b"", b"123456"),
        (b"12345", b"12345", None),
        (b"", b"", None),
        (b"secret\xd9\xa1\xd9\xa2\xd9\xa3", b"secret\xd9\xa1\xd9\xa2\xd9\xa3", None),  # not ASCII
        (("secret" + "\uff11" * 6).encode(), ("secret" + "\uff11" * 6).encode(), None),
        (b"secret+12345", b"secret+12345", None),
        (b"secretrc-abcd-efgh-jkmn", b"secret", b"rc-abcd-efgh-jkmn"),
        (b"secretRC-ABCD-EFGH-2345", b"secret", b"rc-abcd-efgh-2345"),
        (b"rc-2222-3333-4444", b"", b"rc-2222-3333-4444"),
        (b"rc-2222-3333-0444", b"rc-2222-3333-0444", None),  # 0, 1, i, l and o are not used
        (b"c-2222-3333-4444", b"c-2222-3333-4444", None),
        (b"rc-2222-3333-444455", b"rc-2222-3333-", b"444455"),
    ],
)
def test_a_suffix_is_cut(typed, password, code):
    assert taken_apart(typed) == (password, code)


@pytest.mark.parametrize(
    ("typed", "password", "code"),
    [
        (b"secret,123456", b"secret", b"123456"),
        (b"secret,12345678", b"secret", b"12345678"),
        (b"secret,12345", b"secret,12345", None),
        (b"secret,123456789", b"secret,123456789", None),
        (b"secret123456", b"secret123456", None),
        (b"se,cret,123456", b"se,cret", b"123456"),
        (b"secret,123456,", b"secret,123456,", None),
        (b"secret,123456\n", b"secret,123456\n", None),
        (b"secret,push", b"secret,push", None),
        (b",123456", b"", b"123456"),
        (b",", b",", None),
        (b"", b"", None),
        (b"secret,rc-abcd-efgh-jkmn", b"secret", b"rc-abcd-efgh-jkmn"),
        (b"secretrc-abcd-efgh-jkmn", b"secretrc-abcd-efgh-jkmn", None),
    ],
)
def test_a_delimiter_separates(typed, password, code):
    assert taken_apart(typed, COMMA) == (password, code)


def test_the_number_of_digits_is_the_listeners():
    assert taken_apart(b"secret12345678", CodeForm(digits=8)) == (b"secret", b"12345678")
    assert taken_apart(b"secret123456", CodeForm(digits=8)) == (b"secret123456", None)
    assert taken_apart(b"secret7654321", CodeForm(digits=7)) == (b"secret", b"7654321")


@pytest.mark.parametrize("form", [SUFFIX, COMMA])
@pytest.mark.parametrize("typed", [b"", b" ", b"\0", b"\0\0\0", b" \t\r\n\v\f\0", b"se\0cret", b"secret\0"])
def test_this_is_no_password(typed, form):
    code = b"123456" if form is SUFFIX else b",123456"
    assert not is_usable(Secret(typed), form)
    assert not is_usable(Secret(typed + code), form)


def test_this_is_a_password():
    assert is_usable(Secret(b" x "), SUFFIX)
    assert is_usable(Secret(b"x123456"), SUFFIX)
    assert is_usable(Secret(b",push"), COMMA)
    assert is_usable(Secret(b"123456"), COMMA)
    assert not is_usable(Secret(b"123456"), SUFFIX)
    assert not is_usable(Secret(b",123456"), COMMA)
    assert is_usable(Secret(b",123456"), SUFFIX)


FORMS = st.builds(CodeForm, digits=st.sampled_from([6, 7, 8]), delimiter=st.sampled_from([None, b",", b"1", b"-"]))
TYPED = st.binary(max_size=30) | st.text(alphabet="rc-ax29,\0 ", max_size=30).map(str.encode)


@FAST
@given(TYPED, FORMS)
@example(b"rc-abcd-efgh-2345", CodeForm(delimiter=b"-"))
def test_nothing_that_was_typed_is_lost_or_made_up(typed, form):
    password, code = taken_apart(typed, form)
    if code is None:
        assert password == typed
        return
    assert typed.startswith(password)
    middle = typed[len(password) : len(typed) - len(code)]
    assert middle == (form.delimiter or b"")
    assert typed[len(typed) - len(code) :].lower() == code
    assert code.isdigit() or code.startswith(b"rc-")


@FAST
@given(TYPED, FORMS)
def test_what_is_usable_leaves_a_password(typed, form):
    if is_usable(Secret(typed), form):
        password, _ = taken_apart(typed, form)
        assert password.strip(b" \t\r\n\v\f\0")
        assert b"\0" not in typed
