"""The settings: a class for each table of the file, and what each key is for.

Promised here: frozen classes; the docstrings below the keys are what ``conf/ldapmfa.toml`` and the reference page
say, with `examples` where a default says too little. Not in here: how they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationInfo, field_validator

from ldapmfa.config import checks
from ldapmfa.config.applications import Application, Rule, UserMatch
from ldapmfa.config.audit import Audit
from ldapmfa.config.postgresql import DatabaseUrl, is_postgresql
from ldapmfa.config.tables import ServiceTable, Table
from ldapmfa.config.values import (
    AttributeName,
    CatalogUri,
    CodeStyle,
    Delimiter,
    Digits,
    DirectoryName,
    DirectoryUri,
    Domain,
    Endpoint,
    EndpointText,
    Factor,
    File,
    Flag,
    IdentityName,
    MailAddress,
    Method,
    NameServer,
    Network,
    Number,
    OtherName,
    Seconds,
    SrvUri,
    StoreUrl,
    Text,
    Uri,
    Whole,
    Workers,
    web_url,
)
from ldapmfa.core.secret import Secret


@dataclass(frozen=True, slots=True)
class CodeForm:
    """How a listener's clients add a code to the password."""

    style: CodeStyle
    digits: int
    delimiter: str


class Listen(Table):
    """Where clients connect; repeat the table for more listeners."""

    endpoint: EndpointText = Field(examples=["tcp:389:interface=127.0.0.1"])
    """Where to listen, as a Twisted endpoint string of the kind tcp:, tcp6:, unix: or systemd:; tcp: without
    interface= listens on every IPv4 address."""
    name: Annotated[str, checks.is_new] = Field("", examples=["vpn"])
    """What this listener is called in the log and the audit trail; its endpoint string if not given."""
    directory: Annotated[DirectoryName, checks.directory_exists] = "default"
    """The directory behind this listener: "default" is [directory], any other name is [directories.NAME]."""
    tls: Literal["none", "starttls", "ldaps"] = "none"
    """Encryption towards the clients: none, on the client's request (StartTLS), or from the first byte (LDAPS)."""
    certificate: Annotated[File | None, checks.goes_with_tls, checks.is_certificate] = Field(
        None, examples=["/etc/ldapmfa/tls/cert.pem"]
    )
    """The PEM file with this listener's certificate first and the chain after it; needed unless tls is none."""
    key: Annotated[File | None, checks.goes_with_tls, checks.is_key] = Field(
        None, examples=["/etc/ldapmfa/tls/key.pem"]
    )
    """The PEM file with the certificate's private key, without a pass phrase; needed unless tls is none."""
    require_tls: Annotated[Flag | None, checks.can_be_required] = Field(None, examples=[True])
    """Whether a bind in clear text is refused with confidentialityRequired (13); if not given, it is, but not on a
    loopback address or a Unix socket."""
    proxy_protocol_from: tuple[Network, ...] = ()
    """Load balancers from which a PROXY protocol header (v1 or v2) is accepted, so that rules see the real client;
    from anywhere else such a header ends the connection."""
    client_ca_file: Annotated[File | None, checks.goes_with_certificate, checks.is_certificate] = Field(
        None, examples=["/etc/ldapmfa/tls/clients-ca.pem"]
    )
    """The PEM file of the authorities that sign clients' certificates: a client may then show one, and one that is not
    of theirs ends the connection. Applications are recognised by them. No certificate takes the place of a bind."""
    require_client_certificate: Annotated[Flag, checks.goes_with_client_ca] = False
    """Whether a client must show a certificate."""
    code: CodeStyle | None = Field(None, examples=["suffix"])
    """How a code is added to the password at this listener; as in [login] if not given."""
    code_digits: Digits | None = Field(None, examples=[6])
    """How many digits a code has at this listener; as in [login] if not given."""
    delimiter: Delimiter | None = Field(None, examples=[","])
    """What stands between password and code, or keyword, at this listener; as in [login] if not given."""
    deadline: Seconds | None = Field(None, examples=[9])
    """Seconds after which a login at this listener is answered, whoever has not; a second less than its clients wait.
    As in [login] if not given."""
    reuse_seconds: Annotated[Number, Field(ge=0, le=86400)] = 0
    """Seconds for which a success also lets in the same account with the same password, code and all, from the same
    address at this listener, for clients that bind twice; equal binds then share one prompt. The directory verifies
    the password each time. 0: never. Behind a gateway all users have the same address."""
    reuse_uses: Annotated[Whole, Field(ge=1, le=1000)] = 3
    """How many further binds one success lets in."""
    late_approval_seconds: Annotated[Number, Field(ge=0, le=600)] = 0
    """Seconds for which an approval counts that came after its client had left: the next equal bind (same account,
    password and address, at this listener) is let in by it, once. 0: a client that leaves takes its prompt back."""

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, name: Any, info: ValidationInfo) -> Any:
        return name or info.data.get("endpoint", "")

    @cached_property
    def where(self) -> Endpoint:
        """The endpoint, taken apart."""
        return Endpoint.parse(self.endpoint)

    @property
    def tls_required(self) -> bool:
        """Whether a bind in clear text is refused."""
        return not self.where.local if self.require_tls is None else self.require_tls


class ServiceAccount(Table):
    """An account that may read others, for `ldapmfa user enrol` and where users can't read their own entry."""

    dn: Text = Field(examples=["cn=ldapmfa,ou=services,dc=example,dc=com"])
    """Its name, as the directory accepts it in a bind."""
    password_file: Annotated[File | None, checks.is_password] = Field(
        None, examples=["/etc/ldapmfa/service-account.password"]
    )
    """The file that holds its password, the better place for it; a line end after it is ignored."""
    password: Annotated[SecretStr | None, checks.secret_or_file("password")] = Field(None, examples=["secret"])
    """Its password itself, instead of password_file."""

    def secret(self) -> Secret:
        """The password, read again at each call, so that a changed file counts; OSError if it can't be."""
        if self.password_file is not None:
            return Secret(self.password_file.read_bytes().rstrip(b"\r\n"))
        return Secret(self.password.get_secret_value().encode() if self.password else b"")


class Directory(Table):
    """The directory whose passwords count."""

    uris: Annotated[tuple[Uri, ...], checks.stands_alone] = Field(
        min_length=1, examples=[["ldaps://dc1.example.com", "ldaps://dc2.example.com"]]
    )
    """Its servers, ldap:// or ldaps://: the first that is well is asked. Or one ldap+srv://DOMAIN or ldaps+srv://DOMAIN,
    whose servers the DNS names (SRV records _ldap._tcp or _ldaps._tcp)."""
    balance: Annotated[Literal["first", "spread"], checks.goes_with_list] = "first"
    """first asks the first server in the list that is well, spread the one with the fewest connections of ours."""
    check_seconds: Annotated[Number, Field(ge=1, le=600)] = 10
    """Seconds from one look at a server to the next, aside from the logins; one that is down is looked at sooner, at
    first after a second. No login waits for a server that is known to be down."""
    srv_domains: Annotated[tuple[Domain, ...], checks.goes_with_srv] = Field((), examples=[["corp.example.com"]])
    """Domains in which the servers that the DNS names must be; that of the URI if not given. Others are not asked: the
    DNS is not authenticated."""
    nameservers: Annotated[tuple[NameServer, ...], checks.goes_with_srv] = Field((), examples=[["10.0.0.53"]])
    """Whom to ask for SRV records; the name servers of the machine (/etc/resolv.conf) if not given."""
    global_catalog: CatalogUri | None = Field(None, examples=["ldaps://dc1.example.com:3269"])
    """The global catalog of an Active Directory forest (ldap:// or ldaps://, port 3268 or 3269 if none is given), where
    accounts of its other domains are looked up; without it they are refused."""
    starttls: Annotated[Flag, checks.goes_with_uris] = False
    """Whether StartTLS is demanded on ldap:// connections."""
    ca_file: Annotated[File | None, checks.is_certificate] = Field(None, examples=["/etc/ldapmfa/tls/ca.pem"])
    """The PEM file of the authorities that may have signed the servers' certificates; the system's if not given."""
    verify_certificate: Flag = True
    """Whether the servers' certificate and host name are verified. WARNING: with false, anybody between here and the
    directory can read every password and let anybody in; for a laboratory only, name your authority in ca_file
    instead."""
    connect_timeout: Seconds = 5
    """Seconds until a server is given up that does not accept a connection, or does not end the TLS handshake."""
    response_timeout: Seconds = 10
    """Seconds until a server that does not answer a bind or a look-up is given up."""
    spare_links: Annotated[Whole, Field(ge=0)] = 64
    """How many connections that served nothing but a login may wait, bound as nobody, to serve another one; 0 for
    a connection of its own for every login. Each process has as many."""
    spare_seconds: Seconds = 30
    """Seconds until such a connection that was not needed is closed; less than the directory itself allows."""
    spare_age: Seconds = 600
    """Seconds after which a connection serves no further login, however often it is needed; less than the 900 after
    which Active Directory closes idle ones."""
    pending_links: Annotated[Whole, Field(ge=0)] = 200
    """How many connections may stay open while their client's approval is pending; of further logins they are given up,
    and the password is verified once more when the approval is there. Each process has as many."""
    group_seconds: Annotated[Number, Field(ge=0, le=86400)] = 60
    """Seconds for which it is remembered in which groups an account is, or what a group's SID is; where Active
    Directory's groups are named by SID, nothing is remembered. `ldapmfa cache clear` forgets it everywhere."""
    kind: Literal["auto", "active-directory", "openldap", "389-ds"] = "auto"
    """Which product it is; auto asks the directory itself."""
    identity_name: IdentityName = Field("", examples=["corp"])
    """The first part of the key under which its accounts' factors are kept; directories that hold the same accounts
    (two ports of one forest) share one; the directory's own name, here "default", if not given."""
    base_dn: Text | None = Field(None, examples=["dc=example,dc=com"])
    """The entry below which `ldapmfa user enrol` looks for accounts; what the directory's rootDSE says if not given."""
    phone_attribute: AttributeName | None = Field(None, examples=["mobile"])
    """The attribute whose number services call where `ldapmfa user set-phone` has set none; none counts if not given.
    WARNING: users may be able to write it themselves (at Active Directory they may write telephoneNumber and mobile):
    whoever has a password could then have the second factor sent to a phone of their own."""
    service_account: ServiceAccount | None = None
    """An account that looks up others, a table of its own."""

    @property
    def servers(self) -> tuple[DirectoryUri, ...]:
        """`uris`, taken apart; none where the DNS names them."""
        return () if self.srv else tuple(DirectoryUri.parse(uri) for uri in self.uris)

    @property
    def srv(self) -> SrvUri | None:
        """What the DNS is asked for, where it names the servers."""
        return SrvUri.parse(self.uris[0])

    @property
    def global_catalog_server(self) -> DirectoryUri | None:
        """`global_catalog`, taken apart."""
        return DirectoryUri.parse(self.global_catalog, (3268, 3269)) if self.global_catalog else None


class Store(Table):
    """Where enrolled factors, used-up codes, locks and the audit trail are kept."""

    url: Annotated[StoreUrl, checks.has_place] = Field(
        "sqlite:///state.db",
        repr=False,  # it may hold a password
    )
    """The database. A SQLite file: behind three slashes relative to this file, behind four an absolute path. Or
    PostgreSQL, which several nodes share: postgresql+asyncpg://USER@HOST/DATABASE, with ?host=A:5432&host=B:5432
    instead of the host where one of several takes over. A server on another machine must show a certificate for its
    name, by the authority in sslrootcert=FILE; ssl=verify-ca, require or disable ask for less."""
    password_file: Annotated[File | None, checks.is_password, checks.only_postgresql] = Field(
        None, examples=["/etc/ldapmfa/database.password"]
    )
    """The file that holds the password of the PostgreSQL user, a better place for it than the URL; it is read at each
    connection, and a line end after it is ignored."""
    key_file: Annotated[File, checks.is_store_key] = Path("store.key")
    """The file with the key that seals secrets in the store, made by `ldapmfa init` with mode 0600; keep a copy apart
    from the database's."""
    migrate: Flag = True
    """Whether the schema is brought up to date at start; with false the program demands that it is, and stops
    otherwise."""

    def password(self) -> Secret | None:
        """The database's password, read again at each call, so that a changed file counts; OSError if it can't be."""
        if self.password_file is not None:
            return Secret(self.password_file.read_bytes().rstrip(b"\r\n"))
        return DatabaseUrl.parse(self.url).password if is_postgresql(self.url) else None

    @property
    def sqlite_file(self) -> Path | None:
        """The database's file, if it is SQLite's."""
        path = checks.sqlite_path(self.url)
        return Path(path) if path else None


class Login(Table):
    """What a login must show, and how long it may take."""

    factors: tuple[Annotated[Factor, checks.factor_exists], ...] = Field(("totp",), min_length=1)
    """The second factors that are accepted: totp, hotp, recovery (printed codes), an installed plug-in's name, or a
    service's, which has a table [factors.NAME]. Where no code is typed, the services are asked in this order."""
    code: CodeStyle = "suffix"
    """How a code is added to the password: suffix puts it right behind, delimiter puts a delimiter between them."""
    code_digits: Digits = 6
    """How many digits are cut off the end as the code where code is "suffix"."""
    delimiter: Delimiter = ","
    """What stands between password and code where code is "delimiter", and between password and keyword always."""
    keywords: dict[str, Method] = Field(
        default_factory=lambda: {"push": "push", "phone": "phone", "sms": "sms"}, examples=[{"ring": "phone"}]
    )
    """What may be typed behind the delimiter instead of a code, and how the user is asked then: a method (push, phone,
    sms), behind a service's name and a slash if it must be that one ("duo/push"), with a device behind a colon
    ("push:2", "duo/push:DPFZRS9FB0D46QFTM891"). A digit typed behind a keyword is a device too: push2."""
    require_user_match: UserMatch = "refuse"
    """What happens to accounts without a second factor: refused, let in by password alone, or (grace) let in by
    password alone for grace_days since they were first seen."""
    grace_days: Annotated[Number, Field(gt=0, le=366)] = 14
    """For how many days that is; each such login is recorded as "grace"."""
    timezone: Annotated[str, checks.is_timezone] = Field("", examples=["Europe/Berlin"])
    """The time zone of the hours in rules; the machine's if not given."""
    refusal_floor: Annotated[Number, Field(ge=0, le=10)] = 0.25
    """Seconds after its arrival before which no bind is refused, so that time tells nothing."""
    deadline: Seconds = 30
    """Seconds after which a login that has not ended is refused as broken."""
    prompts: Annotated[Whole, Field(ge=1, le=1000)] = 5
    """How often a user may be asked within prompt_seconds (by push, call, or code sent) before further logins are
    refused unasked. Only one prompt is open for a user at any time."""
    prompt_seconds: Seconds = 600
    """The seconds that these prompts are counted over."""
    issuer: Text = "ldapmfa"
    """The name that authenticator apps show beside the account's."""


class Exempt(Table):
    """An account that needs no second factor, such as a service's; repeat the table for more."""

    account: Annotated[Text, checks.can_match] = Field(examples=["cn=svc,ou=services,dc=example,dc=com"])
    """The account: its DN, userPrincipalName or account name (sAMAccountName or uid), matched on the account the
    directory confirmed."""
    networks: tuple[Network, ...] | None = Field(None, min_length=1, examples=[["10.1.0.0/16"]])
    """The networks from which it needs none, any if not given; anywhere else, and at a Unix socket, it is treated as
    any account."""
    directory: Annotated[DirectoryName | None, checks.identity_name_exists] = Field(None, examples=["corp"])
    """The identity_name of the directory the account is in; any directory if not given."""


class Fraud(Table):
    """What happens when a user tells a service that it was somebody else: the account is blocked, people are told."""

    block_days: Annotated[Number, Field(gt=0, le=36500)] = 90
    """For how many days the account is blocked; `ldapmfa user unblock NAME` ends it before."""
    mail_to: tuple[MailAddress, ...] = Field((), examples=[["desk@example.com"]])
    """Who is told by mail."""
    mail_from: Annotated[MailAddress | None, checks.needed_with("mail_to")] = Field(
        None, examples=["ldapmfa@example.com"]
    )
    """Whom such mail is from."""
    smtp_host: Annotated[Text | None, checks.needed_with("mail_to")] = Field(None, examples=["mail.example.com"])
    """The mail server that takes it."""
    smtp_tls: Annotated[Literal["starttls", "tls", "none"], checks.goes_to_loopback] = "starttls"
    """How the mail server is spoken to: in TLS that it must offer (starttls) or from the first byte (tls), its
    certificate being verified; or in clear text (none), which it must be this machine for."""
    smtp_port: Annotated[Whole, Field(ge=1, le=65535)] = 587
    """The mail server's port: 587 or 25, or 465 for tls."""
    smtp_ca_file: Annotated[File | None, checks.is_certificate] = Field(None, examples=["/etc/ldapmfa/tls/ca.pem"])
    """The PEM file of the authorities that may have signed its certificate; the system's if not given."""
    smtp_user: Text | None = Field(None, examples=["ldapmfa"])
    """What to log in to the mail server as; not at all if not given."""
    smtp_password_file: Annotated[
        File | None, checks.needed_with("smtp_user"), checks.pointless_without("smtp_user"), checks.is_password
    ] = Field(None, examples=["/etc/ldapmfa/smtp.password"])
    """The file that holds the password for that; a line end after it is ignored."""
    webhook_url: Annotated[str, web_url("https://soc.example.com/ldapmfa")] | None = Field(
        None, examples=["https://soc.example.com/ldapmfa"]
    )
    """The program that is told by a signed request (POST) to this URL; http:// is for one on this machine."""
    webhook_secret_file: Annotated[
        File | None, checks.needed_with("webhook_url"), checks.pointless_without("webhook_url"), checks.is_hmac_secret
    ] = Field(None, examples=["/etc/ldapmfa/fraud-webhook.secret"])
    """The file that holds the secret that signs it, at least 32 octets; a line end after it is ignored."""
    webhook_ca_file: Annotated[File | None, checks.is_certificate] = Field(None, examples=["/etc/ldapmfa/tls/ca.pem"])
    """The PEM file of the authorities that may have signed its certificate; the system's if not given."""

    @property
    def ways(self) -> tuple[str, ...]:
        """By which ways anybody is told."""
        return ("mail",) * bool(self.mail_to) + ("webhook",) * bool(self.webhook_url)


class Throttle(Table):
    """How often codes and passwords may be guessed; counted in the store, over all listeners and workers."""

    wrong_codes: Annotated[Whole, Field(ge=1, le=100)] = 10
    """How many wrong codes in a row lock an account's second factors."""
    lock_seconds: Seconds = 900
    """Seconds that such a lock lasts. Each further one without a right code in between lasts twice as long."""
    longest_lock_seconds: Seconds = 86400
    """Seconds that such a lock lasts at most; when as many have passed since the last lock's end, the next one lasts
    lock_seconds again."""
    wrong_passwords: Annotated[Whole, Field(ge=0, le=1000)] = 4
    """How many wrong passwords for one account from one address the directory is asked about within
    wrong_password_seconds; further ones, and the right one too, are refused unasked. Fewer than the directory itself
    locks the account after. 0: the directory is asked about everything, and nothing below counts."""
    wrong_password_seconds: Seconds = 900
    """The seconds that wrong passwords are counted over, from the first one on; no fewer than the directory counts
    over."""
    source_wrong_passwords: Annotated[Whole, Field(ge=1)] = 100
    """How many wrong passwords from one address (an IPv6 network of 64 bits), for whatever accounts, the directory is
    asked about within wrong_password_seconds."""
    wrong_passwords_a_minute: Annotated[Whole, Field(ge=1)] = 600
    """How many wrong passwords from everywhere the directory is asked about in a minute; of further logins in that
    minute only those go on whose account has logged in from the same address within 90 days."""
    gateways: tuple[Network, ...] = Field((), examples=[["10.1.2.10"]])
    """Networks where one address stands for many users: VPN gateways, web servers, mail servers, load balancers without
    PROXY headers. Neither source_wrong_passwords nor the limits of a source in [limits] hold there, nor at a Unix
    socket."""


class Limits(Table):
    """How much clients may ask for before they are turned away; each worker counts for itself."""

    connections: Annotated[Whole, Field(ge=1)] = 10_000
    """How many clients may be connected to a process at once; further ones are told busy, and closed. Fewer where the
    process may not open enough files: each client takes two."""
    frame_before_bind: Annotated[Whole, Field(ge=1024, le=1 << 20)] = 64 << 10
    """The longest message of a client that is not bound, in bytes."""
    frame_after_bind: Annotated[Whole, Field(ge=1024, le=10 << 20)] = 1 << 20
    """The longest message of a bound client, in bytes, at most 10485760 (10 MiB)."""
    held_requests: Annotated[Whole, Field(ge=0)] = 100
    """How many requests of one client wait while its login is decided."""
    held_bytes: Annotated[Whole, Field(ge=0)] = 256 << 10
    """How many bytes of such requests wait."""
    buffered_bytes: Annotated[Whole, Field(ge=1 << 20)] = 256 << 20
    """How many bytes a process buffers for all its clients."""
    handshake_timeout: Seconds = 10
    """Seconds within which a client's TLS must stand, from its connection or from StartTLS on, and within which a load
    balancer's PROXY header must have come."""
    bind_timeout: Seconds = 120
    """Seconds a client may stay connected without ever having bound."""
    frame_timeout: Seconds = 30
    """Seconds within which the rest of a begun message must arrive."""
    idle_timeout: Annotated[Number, Field(ge=0, le=86400)] = 840
    """Seconds that a bound client may stay connected without asking for anything; then it gets a notice of
    disconnection. Who waits for an answer is not idle. Less than the directory's own limit: Active Directory's is 900
    (MaxConnIdleTime). 0: for ever."""
    write_timeout: Annotated[Number, Field(ge=0, le=86400)] = 120
    """Seconds within which a client must have read what was sent to it, where that is more than the network takes; then
    it is cut off. 0: for ever."""
    pending_logins: Annotated[Whole, Field(ge=1)] = 5_000
    """How many logins of a process may be undecided at once; further ones are answered busy."""
    source_connections: Annotated[Whole, Field(ge=1)] = 2_500
    """How many clients from one source (an IPv4 address, or an IPv6 network of 64 bits) may be connected at once; those
    in throttle.gateways count for all only, here and below."""
    source_pending_logins: Annotated[Whole, Field(ge=1)] = 2_500
    """How many logins from one source may be undecided at once."""
    source_buffered_bytes: Annotated[Whole, Field(ge=1 << 20)] = 64 << 20
    """How many bytes a process buffers for the clients of one source."""


class Service(Table):
    """How the program runs."""

    workers: Workers = 1
    """How many processes answer, on the same listening addresses and with one store, or "auto": one for each processor.
    With 1 the program is a single process. The limits hold for each process."""
    clock_skew_seconds: Annotated[Number, Field(ge=1, le=3600)] = 5
    """By how many seconds this machine's clock may differ from the database's and from the directories' until the log
    says so, as an error. They are compared every minute; a clock that is set is noticed within seconds."""
    drain_seconds: Annotated[Number, Field(ge=0, le=3600)] = 0
    """Seconds that clients are given at a stop to leave by themselves, while nobody new is accepted; then they are
    taken leave of. systemd kills what takes longer than the unit's TimeoutStopSec."""
    control: File | None = Field(None, examples=["/run/ldapmfa/control.sock"])
    """The socket at which `ldapmfa reload` speaks to the program that runs; ldapmfa.sock in the folder of the store's
    file, or of its key, if not given. It is its user's and root's alone."""
    worker_seconds: Seconds = 20
    """Seconds after which one of several processes that does not answer any more is killed, and replaced by another."""


class Metrics(Table):
    """Where Prometheus finds figures, and load balancers whether the program is well: /metrics, /healthz, /readyz."""

    endpoint: EndpointText | None = Field(None, examples=["tcp:9389:interface=127.0.0.1"])
    """Where they are served by HTTP, as a Twisted endpoint string like a listener's; nowhere if not given. WARNING:
    nobody who asks must prove who it is, and nothing is encrypted: on an address that others can reach, let a firewall
    say who may. No user's name and no secret is in any of it."""


class Log(Table):
    """What is written to standard error."""

    format: Literal["auto", "text", "json"] = "auto"
    """auto writes text to a terminal and JSON to anything else."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """How grave an event must be to be written."""


class Config(BaseModel):
    """Everything that can be set. `load` makes it; made directly, it reads neither file nor environment."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    listen: tuple[Listen, ...] = Field(min_length=1)
    directory: Directory | None = None
    directories: dict[OtherName, Directory] = Field(default_factory=dict)
    store: Store = Field(default_factory=Store)
    login: Login = Field(default_factory=Login)
    application: tuple[Application, ...] = ()
    rule: tuple[Rule, ...] = ()
    factors: dict[DirectoryName, ServiceTable] = Field(default_factory=dict)
    exempt: tuple[Exempt, ...] = ()
    fraud: Fraud = Field(default_factory=Fraud)
    throttle: Throttle = Field(default_factory=Throttle)
    limits: Limits = Field(default_factory=Limits)
    service: Service = Field(default_factory=Service)
    metrics: Metrics = Field(default_factory=Metrics)
    log: Log = Field(default_factory=Log)
    audit: Audit = Field(default_factory=Audit)

    _source: Path | None = PrivateAttr(None)
    _text: str = PrivateAttr("")

    @property
    def source(self) -> Path | None:
        """The file it was read from."""
        return self._source

    @property
    def text(self) -> str:
        """What the file said; the environment may have said otherwise."""
        return self._text

    @property
    def control_socket(self) -> Path:
        """Where the program that runs is spoken to."""
        return self.service.control or (self.store.sqlite_file or self.store.key_file).with_name("ldapmfa.sock")

    @cached_property
    def every_directory(self) -> dict[str, Directory]:
        """Each directory under its name, that of [directory] being "default"; each has an identity name here."""
        default = {"default": self.directory} if self.directory else {}
        return {
            name: directory.model_copy(update={"identity_name": directory.identity_name or name})
            for name, directory in (default | self.directories).items()
        }

    def directory_of(self, listener: Listen) -> Directory:
        """The directory behind `listener`."""
        return self.every_directory[listener.directory]

    @cached_property
    def every_factor(self) -> tuple[str, ...]:
        """Every factor that counts anywhere: first those of [login], in their order."""
        of_tables = [table.factors or () for table in self.application] + [table.factors for table in self.rule]
        return tuple(dict.fromkeys([*self.login.factors, *(name for names in of_tables for name in names)]))

    @property
    def code_factors(self) -> tuple[str, ...]:
        """Those of them that compute codes here."""
        return tuple(name for name in self.every_factor if name not in self.factors)

    def code_form(self, listener: Listen) -> CodeForm:
        """How clients of `listener` add a code to the password: its own settings, else those of [login]."""
        return CodeForm(
            listener.code or self.login.code,
            listener.code_digits or self.login.code_digits,
            listener.delimiter or self.login.delimiter,
        )


def class_in(annotation: Any) -> type[BaseModel] | None:
    """The class of tables that `annotation` is about, however wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := class_in(part))), None)
