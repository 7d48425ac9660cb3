"""The XML of Microsoft's StrongAuthenticationService: how it is asked, what it answers, what its results mean.

Promised here: a request has its elements in the order of the service's data contract, which it demands, with everything
escaped. An answer is read strictly: no DOCTYPE, entity, comment or CDATA, the one root element that belongs to the
question, no element twice, text where text is expected; whatever else is a ValueError. A result that is not listed here
is a ValueError too, so that nothing unknown is ever taken for a yes or a no.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final, Literal

from ldapmfa.factors.service import Denied, Why

if TYPE_CHECKING:
    from ldapmfa.factors.entra_table import EntraTable

SUCCESS: Final = "Success"
PENDING: Final = "AuthenticationPending"
SMS_SENT: Final = "SMSSent"

#: What the values of Result mean that are a no to this user; one that is not here is a failure of the service or ours.
REFUSALS: Final[dict[str, Why]] = {
    # the app
    "PhoneAppDenied": "denied",
    "PhoneAppInvalidResult": "denied",
    "PhoneAppEntropyIncorrect": "denied",
    "PhoneAppFraudReported": "fraud",
    "PhoneAppNoResponse": "no-answer",
    "PhoneAppAllDevicesBlocked": "locked-at-service",
    "PhoneAppNotificationFailed": "no-method",
    "PhoneAppTokenChanged": "no-method",
    # codes of an app or a token
    "OathCodeIncorrect": "wrong-code",
    "OathCodeOld": "wrong-code",
    "OathCodePinIncorrect": "wrong-code",
    "OathCodeDuplicate": "replayed-code",
    "OathCodeFailedMaxAllowedRetryReached": "locked-at-service",
    "OathCodeCorrectButDeviceNotAllowed": "denied",
    # text messages
    "SMSAuthFailedWrongCodeEntered": "wrong-code",
    "SMSAuthFailedMaxAllowedCodeRetryReached": "locked-at-service",
    "SMSAuthFailedNoResponseTimeout": "no-answer",
    "SMSAuthFailedProviderCouldntSendSMS": "no-method",
    # calls
    "UserVoiceAuthFailedPhoneUnreachable": "no-answer",
    "UserVoiceAuthFailedCallWentToVoicemail": "no-answer",
    "UserVoiceAuthFailedPhoneHungUp": "denied",
    "UserVoiceAuthFailedInvalidPhoneInput": "denied",
    "UserVoiceAuthFailedInvalidPhoneNumber": "no-method",
    "UserVoiceAuthFailedInvalidExtension": "no-method",
    "UserVoiceAuthFailedProviderCouldntSendCall": "no-method",
    "FraudCodeEntered": "fraud",
    # the user
    "UserNotFound": "not-enrolled",
    "ProofDataNotFound": "no-method",
    "NoDefaultAuthenticationMethodIsConfigured": "no-method",
    "MFAPinNotSetup": "no-method",
    "UserIsBlocked": "locked-at-service",
    "UserAuthFailedDuplicateRequest": "throttled",
    "AuthenticationThrottled": "throttled",
    "AuthenticationMethodLocked": "locked-at-service",
    "AuthenticationMethodFailed": "denied",
    "AuthenticationMethodNotConfigured": "no-method",
    "AuthenticationMethodNotSupported": "no-method",
    # a name of another tenant, or whose domain the tenant does not have: "not-enrolled" would be too kind to it
    "AccessDenied": "denied",
    "BecAccessDenied": "denied",
    "InvalidArgument": "denied",
    # the question is forgotten, after some three minutes
    "InvalidSession": "no-answer",
    "InvalidSessionId": "no-answer",
}
#: Values that say that a user has registered nothing, but only where their default was asked: somebody who knows a
#: password could ask for a method that its owner does not have, and the owner would seem not to be enrolled.
UNREGISTERED: Final = ("ProofDataNotFound", "NoDefaultAuthenticationMethodIsConfigured")
#: Values that are nobody's no, in plain words.
FAILURES: Final = {
    "InvalidFormat": "it does not understand what we ask",
    "InvalidParameter": "it does not understand what we ask",
    "VersionNotSupported": "it does not speak this version of its interface any more",
    "TenantIsBlocked": "the tenant is blocked",
    "InternalError": "it has failed",
}

_NIL: Final = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance"
_ARRAYS: Final = "http://schemas.microsoft.com/2003/10/Serialization/Arrays"

#: What an answer comes to. "silent": a success that does not say of what, as of a question that has just been asked.
Outcome = Literal["allowed", "code", "pending", "silent"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service says. The id of the session is a bearer's, and shows nowhere."""

    value: str
    authenticated: Literal["true", "false", "challenge"] | None
    session: str | None = field(default=None, repr=False)
    user: str | None = None
    affinity: str | None = field(default=None, repr=False)
    number: str | None = None

    def outcome(self) -> Outcome | Denied:
        """What it comes to; ValueError: it contradicts itself, or is nothing that is known."""
        if self.value in REFUSALS:
            return Denied(REFUSALS[self.value], self.value)
        if self.value not in {SUCCESS, PENDING, SMS_SENT}:
            raise ValueError(f"{FAILURES.get(self.value, 'an unknown result')} ({_shown(self.value)})")
        if self.authenticated == "challenge":
            return "code"
        if self.value != SUCCESS:
            if self.authenticated == "true":
                raise ValueError(f"it contradicts itself ({self.value}, and authenticated)")
            return "pending" if self.value == PENDING else "code"
        if self.authenticated == "false":
            return Denied("denied", f"{self.value}, not authenticated")
        return "allowed" if self.authenticated == "true" else "silent"


def _shown(value: str) -> str:
    """A result's name, if it could be one."""
    return value if re.fullmatch(r"[A-Za-z0-9]{1,64}", value) else "no name of a result"


def begin(table: EntraTable, *, user: str, context: str, method: str, override: bool | None) -> bytes:
    """What asks `user` by `method` (an id of the service's, "" for the user's default).

    `override`: whether a code is wanted where the app would show a number to match; None says nothing of it.
    """
    properties = {"OverrideVoiceOtp": "false"}
    if override is not None:
        properties["OverrideNumberMatchingWithOTP"] = "true" if override else "false"
    pairs = "".join(
        f"<a:KeyValueOfstringstring>{_element('a:Key', key)}{_element('a:Value', value)}</a:KeyValueOfstringstring>"
        for key, value in properties.items()
    )
    return _request(
        table.begin_operation,
        _element("Version", table.version),
        _element("UserPrincipalName", user),
        _element("Lcid", table.lcid),
        _element("AuthenticationMethodId", method) if method else "",
        f'<AuthenticationMethodProperties xmlns:a="{_ARRAYS}">{pairs}</AuthenticationMethodProperties>',
        _element("ContextId", context),
        _element("SyncCall", "true" if table.sync_call else "false"),
        _element("RequireUserMatch", "true"),
        _element("CallerName", table.caller_name),
        _element("CallerIP", table.caller_ip),
    )


def end(table: EntraTable, *, session: str, context: str, user: str, code: str | None) -> bytes:
    """What asks how it went, or, with a `code`, whether that is the right one."""
    return _request(
        table.end_operation,
        _element("Version", table.version),
        _element("SessionId", session),
        _element("ContextId", context),
        f'<AdditionalAuthData xmlns:i="{_INSTANCE}" i:nil="true"/>'
        if code is None
        else _element("AdditionalAuthData", code),
        _element("UserPrincipalName", user),
    )


def _request(operation: str, *elements: str) -> bytes:
    return f"<{operation}Request>{''.join(elements)}</{operation}Request>".encode()


def _element(name: str, text: str) -> str:
    return f"<{name}>{escape(text, quote=False)}</{name}>"


def read(body: bytes, operation: str) -> Answer:
    """The answer to `operation` in `body`; ValueError: it is none."""
    root = _parsed(body)
    if root.tag != f"{operation}Response":
        raise ValueError(f"the answer is no {operation}Response")
    result = _child(root, "Result")
    value = None if result is None else _text(result, "Value")
    if not value:
        raise ValueError("the answer has no Result with a Value")
    authenticated = _text(root, "AuthenticationResult")
    if authenticated not in {None, "true", "false", "challenge"}:
        raise ValueError("the answer's AuthenticationResult is none")
    return Answer(
        value,
        authenticated,  # type: ignore[arg-type] # narrowed by the line above
        _text(root, "SessionId"),
        _text(root, "UserPrincipalName"),
        _text(root, "AffinityUrl"),
        _text(root, "ValidEntropyNumber"),
    )


def _parsed(body: bytes) -> ET.Element:
    """The root element. Text is parsed, not octets: what the document says of its encoding is not believed."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the answer is not XML in UTF-8") from None
    # a DOCTYPE with entities may grow without end, or name files; comments and CDATA are nothing this service sends
    if "<!" in text:
        raise ValueError("the answer has a DOCTYPE, a comment or CDATA")
    try:
        return ET.fromstring(text)  # noqa: S314 - see above
    except (ET.ParseError, ValueError):
        raise ValueError("the answer is not XML") from None


def _child(parent: ET.Element, name: str) -> ET.Element | None:
    found = parent.findall(name)
    if len(found) > 1:
        raise ValueError(f"the answer has {name} more than once")
    return found[0] if found else None


def _text(parent: ET.Element, name: str) -> str | None:
    """What the child `name` says; None if there is none, or it is nil or empty."""
    found = _child(parent, name)
    if found is None:
        return None
    text = found.text or None
    if len(found) or (text and found.get(_NIL) == "true"):
        raise ValueError(f"the answer's {name} is not plain text")
    return text
