"""Microsoft Entra as the NPS extension sees it: tokens, and StrongAuthenticationService, as strict as it can be.

    async with Entra(tmp_path) as fake:
        fake.users["alice@example.com"] = User(presses=["AuthenticationPending", "Success"])
        fake.settings                     # what goes into [factors.entra] to reach it
        fake.forge = lambda operation, text: ...   # what is sent in place of an honest answer
        fake.web.disturb(...)             # see tests/fakes/web.py

A client that breaks a rule (the order of elements, a content type, a number of fields) is an AssertionError where the
fake is left. What a real client may get wrong is answered as Entra does: an AADSTS error, 401, a result of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from fakes.web import Web, as_json

CLIENT = "981f26a1-7f43-403b-a875-f8b09b8cd720"
TENANT = "7a2f4c1e-0d7c-4f0a-9b57-2f3b1c0d5e6f"
SECRET = "Q~8Q~the.value-of_the~secret+/=&%"
PATH = "/StrongAuthenticationService.svc/Connector"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
ARRAYS = "{http://schemas.microsoft.com/2003/10/Serialization/Arrays}"
GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"

#: The members of the data contracts in their order, as (name, whether it must be there).
BEGIN = {
    "Version": True, "UserPrincipalName": True, "TenantId": False, "Lcid": True, "AuthenticationMethodId": False,
    "AuthenticationMethodProperties": True, "AuthenticationPurpose": False, "ContextId": True, "OtpRetryCount": False,
    "SyncCall": True, "ReplicationScope": False, "ObjectId": False, "CompanyName": False, "RequireUserMatch": True,
    "CallerName": True, "CallerIP": True,
}  # fmt: skip
END = {"Version": True, "SessionId": True, "ContextId": True, "AdditionalAuthData": True, "UserPrincipalName": True}
CODES = ("OneWaySMS", "PhoneAppOTP")


@dataclass
class User:
    """Somebody in the tenant. `presses`: what End answers to each poll, the last of them for ever."""

    default: str = "PhoneAppNotification"
    methods: tuple = ("PhoneAppNotification", "PhoneAppOTP", "OneWaySMS", "TwoWayVoiceMobile", "TwoWayVoiceOffice")
    code: str = "123456"
    presses: list = field(default_factory=lambda: ["AuthenticationPending", "Success"])
    begins: str = ""  #: a result that Begin answers in place of asking
    number: int = 0
    used: set = field(default_factory=set)


@dataclass
class Session:
    user: str
    context: str
    method: str
    until: float
    presses: list


class Entra:
    """The tenant and its service, on one HTTPS server unless `hosts` names others."""

    def __init__(self, directory, **web):
        self.web = Web(directory, self._answer, **web)
        self.tenant, self.client, self.secret, self.certificate = TENANT, CLIENT, SECRET, None
        self.resource, self.oauth = f"https://adnotifications.windowsazure.com{PATH}", "v1"
        self.path, self.users, self.sessions, self.asked, self.polls = PATH, {}, {}, [], []
        self.now, self.session_seconds = time.time, 180
        self.tokens, self.token_seconds, self.token_requests, self.seen = {}, 3599, 0, set()
        self.refuse = None  #: the number of an AADSTS error that every request for a token gets
        self.affinity = None  #: the AffinityUrl, if it is not the honest one
        self.sent_to = f"{self.web.url}{PATH}/EndTwoWayAuthentication?dc=KRS"
        self.forge = lambda _operation, text: text

    async def __aenter__(self):
        await self.web.__aenter__()
        return self

    async def __aexit__(self, *why):
        await self.web.__aexit__(*why)

    @property
    def settings(self):
        host = f"{self.web.host}:{self.web.port}"
        return {
            "tenant": self.tenant, "login_host": host, "service_hosts": (host,), "ca_file": self.web.ca_file,
        }  # fmt: skip

    async def _answer(self, request):
        assert request.method == "POST", request.method
        version = "v2.0/" if self.oauth == "v2" else ""
        if request.path == f"/{self.tenant}/oauth2/{version}token":
            return self._token(request)
        operation = request.path.removeprefix(f"{self.path}/")
        assert operation in {"BeginTwoWayAuthentication", "EndTwoWayAuthentication"}, request.path
        assert request.headers["content-type"] == "application/xml"
        scheme, _, token = request.headers["authorization"].partition(" ")
        assert scheme == "Bearer"
        if self.tokens.get(token, 0) <= self.now():
            return 401, {"WWW-Authenticate": "Bearer"}, b""
        text = self._begin(request) if operation.startswith("Begin") else self._end(request)
        body = self.forge(operation, text)
        return (
            200,
            {"Content-Type": "application/xml; charset=utf-8"},
            body if isinstance(body, bytes) else body.encode(),
        )

    # -- tokens

    def _token(self, request):
        self.token_requests += 1
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        form = request.form()
        assert form.pop("grant_type") == "client_credentials"
        if self.oauth == "v2":
            assert form.pop("scope") == f"{self.resource}/.default"
        else:
            assert (form.pop("resource"), form.pop("scope")) == (self.resource, "openid")
        wrong = self.refuse or (700016 if form.pop("client_id") != self.client else self._credential(form, request))
        if wrong:
            text = f"AADSTS{wrong}: It is wrong. Trace ID: 6f1d8a52"
            answer = {
                "error": "invalid_client",
                "error_description": text,
                "error_codes": [wrong],
                "trace_id": "6f1d8a52",
            }
            return as_json(answer, 401)
        token = f"eyJ0.{secrets.token_urlsafe(30)}.sig"
        self.tokens[token] = self.now() + self.token_seconds
        seconds = self.token_seconds if self.oauth == "v2" else str(self.token_seconds)
        return as_json(
            {"token_type": "Bearer", "expires_in": seconds, "access_token": token, "resource": self.resource}
        )

    def _credential(self, form, request):
        """The error of what the client shows, if it has one."""
        if "client_secret" in form:
            assert set(form) == {"client_secret"}
            return 0 if form["client_secret"] == self.secret else 7000215
        assert set(form) == {"client_assertion", "client_assertion_type"}
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        signed, _, signature = form["client_assertion"].rpartition(".")
        header, claims = (json.loads(_octets(part)) for part in signed.split("."))
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        assert set(header) == {"alg", "typ", "x5t"}
        assert (header["alg"], header["typ"]) == ("RS256", "JWT")
        if _octets(header["x5t"]) != hashlib.sha1(der).digest():
            return 700027
        try:
            key = self.certificate.public_key()
            key.verify(_octets(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return 700027
        assert set(claims) == {"aud", "iss", "sub", "jti", "nbf", "iat", "exp"}
        assert claims["iss"] == claims["sub"] == self.client
        assert claims["aud"] == self.web.url + request.path
        assert re.fullmatch(GUID, claims["jti"])
        assert claims["jti"] not in self.seen
        self.seen.add(claims["jti"])
        assert claims["exp"] - claims["nbf"] <= 700
        return 0 if claims["nbf"] <= self.now() < claims["exp"] else 700024

    # -- the service

    def _begin(self, request):
        asked = _members(request.body, "BeginTwoWayAuthenticationRequest", BEGIN)
        assert asked["Version"].text == "1.0"
        assert asked["SyncCall"].text in {"true", "false"}
        assert asked["RequireUserMatch"].text == "true"
        assert (asked["CallerName"].text, asked["CallerIP"].text) == ("radius", "UNKNOWN:")
        assert re.fullmatch(GUID, asked["ContextId"].text)
        properties = {}
        for pair in asked["AuthenticationMethodProperties"]:
            assert pair.tag == f"{ARRAYS}KeyValueOfstringstring"
            assert [one.tag for one in pair] == [f"{ARRAYS}Key", f"{ARRAYS}Value"]
            properties[pair[0].text] = pair[1].text
        assert set(properties) <= {"OverrideVoiceOtp", "OverrideNumberMatchingWithOTP"}
        assert set(properties.values()) <= {"true", "false"}
        name = asked["UserPrincipalName"].text
        user = self.users.get(name)
        method = asked["AuthenticationMethodId"].text if "AuthenticationMethodId" in asked else user and user.default
        self.asked.append((name, method, properties, asked["SyncCall"].text))
        if user is None:
            return self._begun("UserNotFound", name)
        if user.begins:
            return self._begun(user.begins, name)
        if method not in user.methods:
            return self._begun("AuthenticationMethodNotConfigured", name)
        session = f"{secrets.token_hex(4)}-{secrets.token_hex(2)}"
        presses = list(user.presses)
        self.sessions[session] = Session(
            name, asked["ContextId"].text, method, self.now() + self.session_seconds, presses
        )
        authenticated = None
        if asked["SyncCall"].text == "true":
            authenticated = "challenge" if method in CODES else "true"
            if method not in CODES and user.presses[-1] != "Success":
                return self._begun(user.presses[-1], name)
        return self._begun("Success", name, session, authenticated, user.number)

    def _begun(self, value, user, session=None, authenticated=None, number=0):
        affinity = (self.affinity or self.sent_to) if session else None
        rest = f"{_nil('SessionId', session)}{_nil('AuthenticationResult', authenticated)}"
        rest += f"{_nil('UserPrincipalName', user)}{_nil('AffinityUrl', affinity)}"
        return _response("Begin", value, f"{rest}<ValidEntropyNumber>{number}</ValidEntropyNumber>")

    def _end(self, request):
        asked = _members(request.body, "EndTwoWayAuthenticationRequest", END)
        assert asked["Version"].text == "1.0"
        given = asked["AdditionalAuthData"]
        assert (given.get(f"{{{INSTANCE}}}nil") == "true") == (given.text is None)
        name = asked["SessionId"].text
        self.polls.append(request.target)
        session = self.sessions.get(name)
        if session is None or session.until <= self.now():
            return _ended("InvalidSession")
        assert (session.context, session.user) == (asked["ContextId"].text, asked["UserPrincipalName"].text)
        if given.text is not None:
            return self._code(name, session, given.text)
        if session.method in CODES:
            return _ended("SMSSent" if session.method == "OneWaySMS" else "Success", "challenge")
        press = session.presses.pop(0) if len(session.presses) > 1 else session.presses[0]
        if press == "Success":
            del self.sessions[name]
        return _ended(press, "true" if press == "Success" else None)

    def _code(self, name, session, code):
        user = self.users[session.user]
        if session.method not in CODES:
            return _ended("InvalidParameter")
        sms = session.method == "OneWaySMS"
        if code != user.code:
            return _ended("SMSAuthFailedWrongCodeEntered" if sms else "OathCodeIncorrect", "false")
        if code in user.used:
            return _ended("OathCodeDuplicate", "false")
        user.used.add(code)
        del self.sessions[name]
        return _ended("Success", "true")


def _octets(text):
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _members(body, name, contract):
    """The members of a message, which stand in the order of its data contract."""
    assert b"<!" not in body
    root = ET.fromstring(body.decode())
    assert root.tag == name
    names = [member.tag for member in root]
    assert names == [member for member in contract if member in names], f"wrong order, or unknown: {names}"
    assert {member for member, needed in contract.items() if needed} <= set(names)
    return {member.tag: member for member in root}


def _nil(name, text):
    return f'<{name} i:nil="true"/>' if text is None else f"<{name}>{escape(text)}</{name}>"


def _ended(value, authenticated=None):
    rest = f"{_nil('AuthenticationResult', authenticated)}{_nil('LocationData', None)}"
    return _response("End", value, f"{rest}<CompletedInteractively>true</CompletedInteractively>")


def _response(operation, value, rest):
    message, retry = None, "false"
    if value == "AuthenticationPending":
        message, retry = "The authentication has not been completed yet, please try again.", "true"
    result = f"<Value>{value}</Value>{_nil('Message', message)}<Retry>{retry}</Retry>{_nil('Error', None)}"
    result += f"{_nil('Exception', None)}<RenewCert>false</RenewCert>"
    root = f"{operation}TwoWayAuthenticationResponse"
    return f'<{root} xmlns:i="{INSTANCE}"><Version>1</Version><Result>{result}</Result>{rest}</{root}>'
