"""Run by the Python of privacyIDEA's own virtual environment: serve it by HTTPS on loopback, a thread a connection.

python privacyidea_serve.py PI.CFG PORT CERT.PEM KEY.PEM
"""

import ssl
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from privacyidea.app import create_app


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


config, port, certificate, key = sys.argv[1:]
application = create_app(config_name="production", config_file=config, silent=True)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = make_server("127.0.0.1", int(port), application, server_class=Server)
# the handshake is the connection's thread's, not the accepting one's
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
