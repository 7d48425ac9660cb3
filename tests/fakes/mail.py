"""A mail server on loopback that keeps what it is given: with StartTLS, TLS, or neither; and refuses on demand.

    with Mail(tmp_path, tls="starttls") as mail:
        mail.port, mail.ca_file, mail.received       # [(peer's sender, recipients, octets)]
        mail.refuse = "550 no such user"             # what RCPT is answered with
"""

import socket
import ssl

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from fakes.web import Authority

USER, PASSWORD = "ldapmfa", "s3cret-of-mail"




class Mail:
    def __init__(self, directory, *, tls="starttls", certificate="", auth=False):
        authority = Authority(directory, "mail-ca")
        signer = Authority(directory, "mail-stranger") if certificate == "stranger" else authority
        self.ca_file = authority.ca_file
        self.received, self.refuse = [], None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*signer.pair(certificate))
        options = {"tls_context": context, "require_starttls": True} if tls == "starttls" else {}
        if auth:
            options |= {"authenticator": self._authenticated, "auth_required": True, "auth_require_tls": tls != "tls"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._controller = Controller(
            self, hostname="127.0.0.1", port=self.port, ssl_context=context if tls == "tls" else None, **options
        )

    def _authenticated(self, server, session, envelope, mechanism, data):
        right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.received.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 OK"

    def __enter__(self):
        self._controller.start()
        return self

    def __exit__(self, *_):
        self._controller.stop()
