"""What every table of the settings has in common, and what every table of a service's has: plug-ins build on it.

The docstring below a key is what the example configuration and the reference page say of it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from ldapmfa.config import checks
from ldapmfa.config.values import DirectoryName, File, Number, Seconds, Text, Whole
from ldapmfa.core.secret import Secret


class Table(BaseModel):
    """A frozen table that takes no key it does not know, and shows no value in a mistake."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


def _template(text: str) -> str:
    names = re.findall(r"\{([^{}]*)\}", text)
    if len(names) != 1 or names[0] not in {"account", "upn"} or re.sub(r"\{[^{}]*\}", "", text) != text.replace(
        "{" + names[0] + "}", ""
    ):
        raise ValueError('must name the user by "{account}" or "{upn}" once, for example "{account}@example.com"')
    return text


UserTemplate = Annotated[str, AfterValidator(_template)]


class ServiceTable(Table):
    """What can be set of any service that verifies second factors."""

    kind: str = ""
    """Which service it is; the table's own name if not given."""
    username: UserTemplate = Field("{account}", examples=["{account}@example.com"])
    """What users are called there: {account} stands for sAMAccountName or uid, {upn} for userPrincipalName, as the
    directory has them."""
    directory: Annotated[DirectoryName | None, checks.says_which_directory] = Field(None, examples=["corp"])
    """The identity_name of the directory whose accounts it knows; needed where there are several, as the same name may
    be another person's in each."""
    fail_mode: Literal["closed", "open"] = "closed"
    """What happens to those who would be asked while the service can't be reached: refused, or (open) let in by
    password alone, unless they have a factor here. Only an outage opens: no connection, or an answer 500 and above."""
    fail_open_minutes: Annotated[Number, Field(gt=0, le=1440)] = 15
    """For how many minutes of an outage it opens at most; each such login is an alarm in the log."""
    connect_timeout: Seconds = 5
    """Seconds until a connection that is not accepted is given up."""
    response_timeout: Seconds = 10
    """Seconds until an answer that does not come is given up, unless it is the user who is waited for."""
    probe_seconds: Seconds = 5
    """How often a service that has failed is tried again, aside from logins, which are answered at once meanwhile."""
    failures: Annotated[Whole, Field(ge=1, le=100)] = 3
    """How many logins in a row must fail at the service until no further one waits for it."""
    connections: Annotated[Whole, Field(ge=1, le=65536)] = 5000
    """How many connections a process may have to it; many services hold one for each user who is being asked."""

    def secret_of(self, name: str) -> Secret:
        """The secret that `name`_file names, read again at each call, or that `name` is; OSError: it can't be read."""
        file: Any = getattr(self, f"{name}_file", None)
        if file is not None:
            return Secret(file.read_bytes().rstrip(b"\r\n"))
        given: SecretStr | None = getattr(self, name, None)
        return Secret(given.get_secret_value().encode() if given else b"")


class HttpTable(ServiceTable):
    """What can be set of any service that is spoken to by HTTP."""

    proxy: Text | None = Field(None, examples=["http://proxy.example.com:3128"])
    """The HTTP proxy through which it is reached; none if not given, whatever the environment says."""
    ca_file: Annotated[File | None, checks.is_certificate] = Field(None, examples=["/etc/ldapmfa/tls/service-ca.pem"])
    """The PEM file of the authorities that may have signed its certificate; the system's if not given."""
