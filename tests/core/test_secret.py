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
WORDS = {b"push": "push", b"sms": "sms", b"phone": "phone", b"p": "push", b"p2": "phone", b"duo": "duo/push:D1", b"rsa": "rsa"}
SUFFIX_OR_WORD = CodeForm(keywords=WORDS)
COMMA_OR_WORD = CodeForm(delimiter=b",", keywords=WORDS)


def taken_apart(typed: bytes, form: CodeForm = SUFFIX):
    result = split(Secret(typed), form)
    return result.password.reveal(), result.code.reveal() if result.code else None


def test_a_secret_does_not_show():
    secret = Secret(b"hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>30}", repr(Typed(secret, secret, "push")), repr([secret])):
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
        (b"secretap-abcd-efgh-jkmn", b"secret", b"ap-abcd-efgh-jkmn"),
        (b"secretAP-ABCD-EFGH-2345", b"secret", b"ap-abcd-efgh-2345"),
        (b"secretar-abcd-efgh-jkmn", b"secretar-abcd-efgh-jkmn", None),
        (b"secretrcap-abcd-efgh-jkmn", b"secretrc", b"ap-abcd-efgh-jkmn"),
        (b"rc-2222-3333-4444", b"", b"rc-2222-3333-4444"),
        (b"ap-2222-3333-4444", b"", b"ap-2222-3333-4444"),
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
        (b"secret,ap-abcd-efgh-jkmn", b"secret", b"ap-abcd-efgh-jkmn"),
        (b"secretrc-abcd-efgh-jkmn", b"secretrc-abcd-efgh-jkmn", None),
        (b"secretap-abcd-efgh-jkmn", b"secretap-abcd-efgh-jkmn", None),
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


@pytest.mark.parametrize("form", [SUFFIX_OR_WORD, COMMA_OR_WORD], ids=["suffix", "delimiter"])
@pytest.mark.parametrize(
    ("typed", "password", "method"),
    [
        (b"secret,push", b"secret", "push"),
        (b"secret,PuSh", b"secret", "push"),
        (b"secret,phone", b"secret", "phone"),
        (b"se,cret,sms", b"se,cret", "sms"),
        (b"secret,push,sms", b"secret,push", "sms"),
        (b"secret123456,push", b"secret123456", "push"),
        (b"secret,123456,push", b"secret,123456", "push"),
        (b"secret,push1", b"secret", "push:1"),
        (b"secret,PUSH9", b"secret", "push:9"),
        (b"secret,rsa3", b"secret", "rsa:3"),
        (b"secret,p1", b"secret", "push:1"),
        (b"secret,p2", b"secret", "phone"),  # a keyword of its own
        (b"secret,p22", b"secret", "phone:2"),
        (b"secret,duo", b"secret", "duo/push:D1"),
        (b"secret,,push", b"secret,", "push"),
        (b",push", b"", "push"),
        (b"\xff\0,push", b"\xff\0", "push"),
    ],
)
def test_a_keyword_behind_the_mark_is_a_method(typed, password, method, form):
    """Whatever the style of codes; with the number of a device, where the keyword names none."""
    typed = split(Secret(typed), form)
    assert (typed.password.reveal(), typed.code, typed.method) == (password, None, method)
    assert typed.is_cut
    assert typed.marked


@pytest.mark.parametrize("form", [SUFFIX_OR_WORD, COMMA_OR_WORD], ids=["suffix", "delimiter"])
@pytest.mark.parametrize(
    "typed",
    [b"secretpush", b"push", b"secret;push", b"secret,push,", b"secret,push ", b"secret, push", b"secret,push0", b"secret,push12", b"secret,1", b"secret,", b"secret,fax", b"secret,pus", b"secret,push\n", b"secret,push\0", b"secret,duo1", b"secret,push\xd9\xa1", b"secret,\xef\xbd\x90ush", b"secret,:2", b"secret,duo/push"],
)
def test_what_is_no_keyword_is_password(typed, form):
    found = split(Secret(typed), form)
    assert found == Typed(Secret(typed), None)
    assert not found.is_cut
    assert not found.marked


def test_a_keyword_and_a_code_are_told_apart_by_what_stands_last():
    def parts(typed, form):
        found = split(Secret(typed), form)
        return found.password.reveal(), found.code.reveal() if found.code else None, found.method, found.marked

    assert parts(b"secret,push,123456", COMMA_OR_WORD) == (b"secret,push", b"123456", None, True)
    assert parts(b"secret,push123456", COMMA_OR_WORD) == (b"secret,push123456", None, None, False)
    assert parts(b"secret,push123456", SUFFIX_OR_WORD) == (b"secret,push", b"123456", None, False)
    assert parts(b"secret,123456", SUFFIX_OR_WORD) == (b"secret,", b"123456", None, False)
    assert parts(b"secret123456", COMMA_OR_WORD) == (b"secret123456", None, None, False)
    assert parts(b"secret,rc-abcd-efgh-jkmn", COMMA_OR_WORD) == (b"secret", b"rc-abcd-efgh-jkmn", None, True)


def test_the_mark_and_the_keywords_are_the_listeners():
    form = CodeForm(delimiter=b"+", keywords={b"anruf": "phone"}, mark=b"+")
    assert split(Secret(b"secret+anruf"), form) == Typed(Secret(b"secret"), None, "phone", marked=True)
    assert split(Secret(b"secret+123456"), form) == Typed(Secret(b"secret"), Secret(b"123456"), marked=True)
    assert not split(Secret(b"secret,anruf"), form).is_cut
    assert not split(Secret(b"secret+push"), form).is_cut
    for silent in (SUFFIX, COMMA):
        assert not split(Secret(b"secret,push"), silent).is_cut


@pytest.mark.parametrize("form", [SUFFIX_OR_WORD, COMMA_OR_WORD], ids=["suffix", "delimiter"])
@pytest.mark.parametrize("typed", [b",push", b" ,push", b"\0,push", b" \t\r\n\v\f\0,sms", b",PUSH1", b",duo", b"se\0cret,push"])
def test_A17_a_keyword_alone_is_no_password(typed, form):
    assert not is_usable(Secret(typed), form)
    assert is_usable(Secret(b"x,push"), form)


def test_A17_only_the_last_keyword_is_cut_off():
    """What is left looks like one more: it is the password, and not empty."""
    assert is_usable(Secret(b",push,push"), COMMA_OR_WORD)
    assert is_usable(Secret(b",123456,push"), COMMA_OR_WORD)
    assert split(Secret(b",push,push"), COMMA_OR_WORD).password == Secret(b",push")


FORMS = st.builds(
    CodeForm,
    digits=st.sampled_from([6, 7, 8]),
    delimiter=st.sampled_from([None, b",", b"1", b"-"]),
    keywords=st.sampled_from([{}, WORDS]),
    mark=st.sampled_from([b",", b"-"]),
)
TYPED = st.binary(max_size=30) | st.text(alphabet="rcp-ax29,\0 push", max_size=30).map(str.encode)


@FAST
@given(TYPED, FORMS)
@example(b"rc-abcd-efgh-2345", CodeForm(delimiter=b"-"))
@example(b"x,push2", COMMA_OR_WORD)
def test_nothing_that_was_typed_is_lost_or_made_up(typed, form):
    found = split(Secret(typed), form)
    password = found.password.reveal()
    assert found.code is None or found.method is None
    if not found.is_cut:
        assert password == typed
        return
    assert typed.startswith(password)
    behind = typed[len(password) :]
    if found.method is not None:
        word = behind.removeprefix(form.mark).lower()
        assert behind.startswith(form.mark)
        assert found.method == form.keywords.get(word) or found.method == f"{form.keywords[word[:-1]]}:{word[-1:].decode()}"
        return
    code = found.code.reveal()
    assert behind.lower() == (form.delimiter or b"") + code
    assert code.isdigit() or code.startswith((b"rc-", b"ap-"))
    assert found.marked == (form.delimiter is not None)


@FAST
@given(TYPED, FORMS)
def test_what_is_usable_leaves_a_password(typed, form):
    if is_usable(Secret(typed), form):
        password = split(Secret(typed), form).password.reveal()
        assert password.strip(b" \t\r\n\v\f\0")
        assert b"\0" not in password
