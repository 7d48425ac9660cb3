"""What an application is recognised by: how its clients come, from where, and what certificate they show.

Promised here: nothing that a client may say of itself counts, only the listener that took it, the address of its
connection (A37), and the certificate for which it proved to have the key (A51). Not in here: whether that certificate
is to be trusted (`ldapmfa.net.tls`), and what follows from being recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

from ldapmfa.core.policy import Address, Network
from ldapmfa.wire import dn


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was verified.

    `subject` is a DN (RFC 4514); `names` are its subject alternative names, written ``dns:NAME``, ``email:ADDRESS`` or
    ``uri:URI``; `fingerprint` is the SHA-256 of its DER in lower-case hexadecimal.
    """

    subject: str
    names: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A client as it is known before it binds; `address` None: not known, or there is none."""

    listener: str
    address: Address | None
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class Recognition:
    """Conditions that must all hold; None: no condition.

    A certificate is written ``sha256:HEX`` (colons and case do not matter), ``dns:NAME`` (the whole name, without
    regard to case) or ``subject:DN``; the case of the first word does not matter, either.
    """

    listeners: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    certificates: tuple[str, ...] | None = None

    def covers(self, peer: Peer) -> bool:
        """Whether `peer` is a client of this application."""
        return (
            (self.listeners is None or peer.listener in self.listeners)
            and (self.networks is None or self._network(peer) is not None)
            and (self.certificates is None or self._entry(peer) is not None)
        )

    def why(self, peer: Peer) -> list[tuple[bool, str]]:
        """Of every condition whether it holds for `peer`, and what is the case."""
        found = []
        if self.listeners is not None:
            holds = peer.listener in self.listeners
            of = f"{'one' if holds else 'none'} of: {', '.join(sorted(self.listeners))}"
            found.append((holds, f"it came by the listener {peer.listener}, {of}"))
        if self.networks is not None:
            network = self._network(peer)
            where = "its address is not known, and" if peer.address is None else str(peer.address)
            inside = network or f"none of: {', '.join(map(str, self.networks))}"
            found.append((network is not None, f"{where} lies in {inside}"))
        if self.certificates is not None:
            entry, every = self._entry(peer), ", ".join(self.certificates)
            shown = peer.certificate
            if shown is None:
                found.append((False, f"it showed no certificate, and must show one of: {every}"))
            elif entry is None:
                which = f"({shown.subject}, sha256:{shown.fingerprint})"
                found.append((False, f"its certificate {which} is none of: {every}"))
            else:
                found.append((True, f"its certificate is {entry}"))
        return found

    def _network(self, peer: Peer) -> Network | None:
        address = peer.address
        if address is None:
            return None
        return next((network for network in self.networks or () if address in network), None)

    def _entry(self, peer: Peer) -> str | None:
        shown = peer.certificate
        if shown is None:
            return None
        return next((entry for entry in self.certificates or () if _means(entry, shown)), None)


def _means(entry: str, certificate: Certificate) -> bool:
    """Whether `entry` is written for `certificate`; an empty name is nobody's."""
    kind, _, name = entry.partition(":")
    kind = kind.lower()
    if not name.strip():
        return False
    if kind == "sha256":
        return name.replace(":", "").lower() == certificate.fingerprint
    if kind == "dns":
        return entry.lower() in (other.lower() for other in certificate.names)
    return kind == "subject" and dn.same(name, certificate.subject)
