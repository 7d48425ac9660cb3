"""The settings of Entra's second factors, and where its clouds are.

Promised here: a host is named without a scheme, so that nothing but HTTPS is ever used; the application shows one
credential, not two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from ldapmfa.config import checks
from ldapmfa.config.tables import HttpTable, UserTemplate
from ldapmfa.config.values import File, Flag, Seconds, Text


@dataclass(frozen=True, slots=True)
class _Cloud:
    """The hosts of one of Microsoft's clouds, as the NPS extension's documentation has them."""

    login: str
    service: str
    resource: str


_CLOUDS: Final = {
    "global": _Cloud(
        "login.microsoftonline.com",
        "strongauthenticationservice.auth.microsoft.com",
        "adnotifications.windowsazure.com",
    ),
    "usgov": _Cloud(
        "login.microsoftonline.us", "strongauthenticationservice.auth.microsoft.us", "adnotifications.windowsazure.us"
    ),
    "china": _Cloud(
        "login.chinacloudapi.cn", "strongauthenticationservice.auth.microsoft.cn", "adnotifications.windowsazure.cn"
    ),
}
_PATH: Final = "/StrongAuthenticationService.svc/Connector"


def _matching(pattern: str, right: str) -> AfterValidator:
    """Only what `pattern` matches as a whole; `right` says what that is."""

    def look(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {right}")
        return value

    return AfterValidator(look)


Tenant = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9.-]*", "the tenant's id or one of its domains")]
Host = Annotated[str, _matching(r"[a-z0-9.-]+(:[0-9]{1,5})?", "a host in small letters, without https://")]
UrlPath = Annotated[str, _matching(r"(/[A-Za-z0-9._~-]+)+", "a path that begins with a slash and ends without one")]
Name = Annotated[str, _matching(r"[A-Za-z]+", "a name of letters")]
MethodId = Annotated[str, _matching(r"[A-Za-z0-9]*", "an id of letters and digits")]


@checks.when_read
def _one_credential(key: object, info: ValidationInfo) -> None:
    """The application shows a secret or a certificate with its key."""
    given = [name for name in ("client_secret_file", "client_secret", "certificate") if info.data.get(name) is not None]
    if {"client_secret_file", "client_secret", "certificate"} - set(info.data):
        return  # one is mistaken, and reported
    if (key is not None) != ("certificate" in given):
        raise ValueError("goes with certificate: give both, or none")
    if len(given) != 1:
        raise ValueError(
            f"keep one of {' and '.join(given)}"
            if given
            else "or a secret is missing: give client_secret_file, or certificate and key"
        )


class EntraTable(HttpTable):
    """EXPERIMENTAL: Microsoft Entra multifactor authentication, by the interface of Microsoft's NPS extension.

    Microsoft does not document this interface and may change it at any time; the supported way is the NPS extension
    itself, asked by RADIUS. Whatever is not certain about it can be set here: leave it alone unless logins fail.
    """

    username: UserTemplate = Field("{upn}", examples=["{account}@example.com"])
    """What users are called there, which is their userPrincipalName in Entra: {upn} stands for the directory's,
    {account} for sAMAccountName or uid."""
    tenant: Tenant = Field(examples=["00000000-0000-0000-0000-000000000000"])
    """The tenant's id (or one of its domains)."""
    cloud: Literal["global", "usgov", "china"] = "global"
    """Which of Microsoft's clouds it is in."""
    client_secret_file: Annotated[File | None, checks.is_password] = Field(None, examples=["/etc/ldapmfa/entra.secret"])
    """The file that holds the client secret of the application, its value and not its id."""
    client_secret: SecretStr | None = Field(None, examples=["secret"])
    """The client secret itself, instead of client_secret_file."""
    certificate: Annotated[File | None, checks.is_certificate] = Field(None, examples=["/etc/ldapmfa/entra.pem"])
    """Instead of a secret: the PEM file of a certificate that is registered with the application."""
    key: Annotated[File | None, checks.is_key, _one_credential] = Field(None, examples=["/etc/ldapmfa/entra.key"])
    """The PEM file of the certificate's private key, RSA, without a pass phrase."""
    client_id: Text = "981f26a1-7f43-403b-a875-f8b09b8cd720"
    """The application's id; that of Azure Multi-Factor Auth Client, whose secret or certificate it must be."""
    login_host: Host | None = Field(None, examples=["login.microsoftonline.com"])
    """The host, or host:port, that gives tokens; the cloud's if not given."""
    service_hosts: tuple[Host, ...] = Field((), examples=[["strongauthenticationservice.auth.microsoft.com"]])
    """The hosts that are asked: the first, and others only where it refers to them; the cloud's if not given."""
    path: UrlPath = _PATH
    """The path of the service on these hosts."""
    resource: Text | None = Field(None, examples=[f"https://adnotifications.windowsazure.com{_PATH}"])
    """What the token is asked for; the cloud's connector if not given."""
    oauth_version: Literal["v1", "v2"] = "v1"
    """Which of Entra's endpoints for tokens is used: with v1 the resource is named, with v2 a scope made of it."""
    begin_operation: Name = "BeginTwoWayAuthentication"
    """The last part of the path of what asks a user; the names of its XML elements begin with it."""
    end_operation: Name = "EndTwoWayAuthentication"
    """The same of what asks for the result."""
    content_type: Text = "application/xml"
    """The content type of what is sent."""
    version: Text = "1.0"
    """The version of the interface that is named in what is sent."""
    lcid: Text = "en-us"
    """The language of texts and calls."""
    caller_name: Text = "radius"
    """What we say that we are."""
    caller_ip: Text = "UNKNOWN:"
    """What we say of the client's address."""
    override_number_matching: Literal["auto", "always", "never", "unsaid"] = "auto"
    """Whether a code of the app is wanted in place of a number to match, which no LDAP client can show: auto wants it
    where a code is at hand and asks for Approve or Deny elsewhere; unsaid leaves it to the service."""
    push_id: MethodId = "PhoneAppNotification"
    """The service's id of the method push; this and the following ones may be empty, for the user's default."""
    phone_id: MethodId = "TwoWayVoiceMobile"
    """The same for phone, a call to the mobile phone."""
    office_id: MethodId = "TwoWayVoiceOffice"
    """The same for office, a call to the phone at the office."""
    sms_id: MethodId = "OneWaySMS"
    """The same for sms, a code by text message."""
    otp_id: MethodId = "PhoneAppOTP"
    """The same for otp, a code that the app or a token shows, also if it is typed with the password."""
    sync_call: Flag = False
    """Whether the service answers only when the user has, instead of being asked again and again."""
    poll_seconds: Seconds = 1.5
    """How long to wait before asking again whether the user has answered."""
    code_seconds: Seconds = 180
    """For how many seconds after it was sent a code is taken; the service forgets it after some three minutes."""
    health_check: Literal["session", "token"] = "session"
    """What the probe of an outage does: session asks the service about a session that does not exist, token only gets
    a token."""

    @property
    def login(self) -> str:
        """The host that gives tokens."""
        return self.login_host or _CLOUDS[self.cloud].login

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that may see a token, the one to ask first."""
        cloud = _CLOUDS[self.cloud]
        return self.service_hosts or (cloud.service, cloud.resource)

    @property
    def audience(self) -> str:
        """What a token is asked for."""
        return self.resource or f"https://{_CLOUDS[self.cloud].resource}{_PATH}"

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return f"https://{self.login}/{self.tenant}/oauth2/{'v2.0/' if self.oauth_version == 'v2' else ''}token"
