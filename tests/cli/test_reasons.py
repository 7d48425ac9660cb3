"""Every reason that can be recorded is explained, and nothing else is."""

import ast
import inspect
from typing import get_args, get_type_hints

from ldapmfa.cli.reasons import REASONS, explained
from ldapmfa.core import identity, login, questions, session
from ldapmfa.factors import service
from ldapmfa.net import asking, driver, ldap_front
from ldapmfa.store import prompts

#: Where a reason stands among the arguments of what records or carries it.
PLACES = {"Refused": 0, "Unidentified": 0, "Admit": 1, "Accepted": 2, "BindRefused": 1, "_note": 1, "_refuse_bind": 2, "_event": 1}
WHY = {"Answered"}


def constant(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def reasons_in(module):
    """The string constants that stand where a reason stands."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            place = PLACES.get(name)
            found |= {word.value.value for word in node.keywords if name in WHY and word.arg == "why" and constant(word.value)}
            if place is not None and len(node.args) > place and constant(node.args[place]):
                found.add(node.args[place].value)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            # session: reason, result code, text
            reason, _code, text = node.value.elts
            if constant(reason) and constant(text):
                found.add(reason.value)
    return found


def recorded():
    found = set().union(*(reasons_in(module) for module in (identity, login, session, driver, asking, ldap_front)))
    found |= {reason for _, reason in driver._REASONS} | {"bug", "password", *login._SUB_CODES.values()}
    found |= set(get_args(get_type_hints(identity.Unidentified)["reason"]))
    found |= set(get_args(questions.Reason)) | set(get_args(get_type_hints(questions.Reused)["reason"]))
    found |= set(get_args(service.Why)) | (set(get_args(prompts.Begun)) - {"begun", "shared"})
    for result in get_args(questions.CodeResult):
        found |= {"accepted": set(), "wrong": {"wrong-code"}, "replayed": {"replayed-code"}}.get(result, {result})
    return found


def test_the_search_finds_reasons_of_every_kind():
    some = {"no-name", "password", "no-entry", "other-domain", "clear-text", "malformed", "client-left", "code", "locked"}
    assert some | {"too-many-logins", "deadline", "exempt", "empty-password"} <= recorded()


def test_none_is_without_explanation_and_none_is_explained_in_vain():
    assert recorded() == set(REASONS)


def test_an_explanation_is_sentences():
    for one in REASONS.values():
        for text in (one.meaning, *filter(None, [one.remedy])):
            assert text[0].isupper() or text.startswith("ldapmfa")
            assert text[-1] in ".?"


def test_a_record_of_a_later_version_is_no_failure():
    assert "of-tomorrow" in explained("of-tomorrow").meaning
