"""ldapmfa: an LDAP proxy that demands a second factor before a simple bind succeeds.

The architecture in twenty lines:

* `wire/` turns bytes into values and back: message boundaries, frames (id, tag, raw), binds, names.
* `core/session` is one client's conversation as a rule table: ``RULES[(state, request)]``. Events go in
  (bytes came, the login ended, the directory left), commands come out (relay this, answer that, start a login).
* `core/policy` and `core/rules` say what an account must show, from where, at which application.
* `core/login` is one login as a generator: it yields questions (verify the password, who is it, is the code
  right?), is sent answers, and ends in a Verdict. "No" is a value, "broken" is an exception, broken means no.
* `net/ldap_front` feeds a session and performs its commands; `net/directory` faces the directory;
  `net/driver` puts a login's questions to whoever can answer; `net/service` assembles it all.
* `factors/` compute whether a code is right; `store/` burns it, atomically and durably, and says who was first.
* `accounts` is what may be done to an account; `cli/` and later the web go through it.
* `config` is every setting as a typed class; `audit` what is worth recording; `errors` what means broken.

Imports point downward only: cli, demo, net -> accounts, factors, store -> core -> wire.
A bind takes eight stops: ldap_front, session, driver, login, directory, factors, store, session.
A search takes three: ldap_front, session, directory; its bytes are never changed.
"""

__version__ = "0.1.0"
