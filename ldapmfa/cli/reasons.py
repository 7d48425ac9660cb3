"""Why a login ended as it did, in plain words: one explanation for every reason that the record can hold.

Not in here: what decides (`ldapmfa.core.login`, `ldapmfa.core.identity`, `ldapmfa.core.session`) or breaks
(`ldapmfa.net.driver`). A test finds the reasons in these modules and fails if one has no explanation here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means, and what can be done about it."""

    meaning: str
    remedy: str = ""


_WAIT: Final = (
    "ldapmfa user unlock NAME ends it at once; it ends by itself after throttle.lock_seconds, and after twice as long"
    " each time that it follows another lock without a right code in between."
)
_LOG: Final = "ldapmfa's log has a line of the same time, under the same reference code."

REASONS: Final[dict[str, Explanation]] = {
    # accepted
    "code": Explanation("The password and the code were right."),
    "exempt": Explanation("The password was right, and an [[exempt]] entry says that this account needs no code."),
    "password-only": Explanation(
        "The password was right, the account has no second factor, and"
        ' require_user_match = "password-only" lets it in.',
        "Enrol it: ldapmfa user enrol NAME.",
    ),
    "by-rule": Explanation(
        "The password was right, and the rule named in the detail asks for nothing else there."
    ),
    "grace": Explanation(
        "The password was right, and the account has no second factor: it is let in by password alone for grace_days"
        " since it was first seen.",
        "Enrol it: ldapmfa user enrol NAME.",
    ),
    "bypass": Explanation(
        "The password was right, and an operator had granted the account one login without a second factor."
    ),
    "approved": Explanation("The password was right, and the user approved the login by a second factor that asks."),
    "reused": Explanation(
        "The password was right, and an equal login from the same address had succeeded just before (reuse_seconds)."
    ),
    "late-approval": Explanation(
        "The password was right, and the user had approved an equal login whose client had not waited"
        " (late_approval_seconds)."
    ),
    "failed-open": Explanation(
        "The password was right, and nothing else was shown: the service could not be reached, and its"
        ' fail_mode = "open" let the user in.',
        'See that it can be reached; fail_mode = "closed" refuses instead.',
    ),
    # refused by the session
    "second-bind": Explanation(
        "A second bind came while the first of the same connection was not answered.",
        "The program breaks a rule of LDAP, or gives up too early: raise its time-out.",
    ),
    # refused by the login: the password first
    "no-name": Explanation(
        "The bind gave a password without a name, or a name with a NUL in it.", "Correct the client's settings."
    ),
    "password": Explanation(
        "The directory did not accept the password, or does not know the name.",
        "If the password is right: was the code typed behind it, as this listener expects (code, code_digits,"
        " delimiter), and is a keyword one of login.keywords? Is the account disabled, locked or expired at the"
        " directory? OpenLDAP and 389 Directory Server take only a distinguished name.",
    ),
    # what Active Directory says of an account whose password was right (of a locked one it does not check that)
    "account-disabled": Explanation("The password was right; the account is disabled.", "Enable it at the directory."),
    "account-expired": Explanation("The password was right; the account has expired.", "Extend it at the directory."),
    "account-locked": Explanation("The directory has locked the account after wrong passwords.", "Unlock it there."),
    "password-expired": Explanation("The password was right; it has expired.", "Change it where that can be done."),
    "logon-hours": Explanation("The password was right; the account may not log in at this time."),
    "workstation": Explanation("The password was right; the account may log in at named workstations only."),
    # then the identity
    "must-change-password": Explanation(
        "The password was right, and the directory demands that it be changed first.",
        "Change it where that can be done, such as at a workstation of the domain.",
    ),
    "another-account": Explanation(
        "The password was right, but the name belonged to another account when the approval came than when it was asked"
        " for.",
        "Ask who renamed or replaced an account at that time.",
    ),
    "other-domain": Explanation(
        "The password was right; the account belongs to another domain of the forest, and can't be looked up here.",
        "Set global_catalog for this directory.",
    ),
    "not-a-user": Explanation(
        "The password was right, but what was bound is neither a user's nor a computer's account.",
        "Use an account of that kind.",
    ),
    "no-entry": Explanation(
        "The password was right, but the directory holds no entry for the account (such as OpenLDAP's rootdn).",
        "Such an account passes only by an [[exempt]] entry with its DN.",
    ),
    "rule": Explanation(
        "The password was right; the rule named in the detail lets nobody of that kind log in there, or then.",
        "ldapmfa explain --name NAME --from ADDRESS shows what each rule looks at.",
    ),
    "blocked": Explanation(
        "The password was right, and the account is blocked here: by an operator, or because its owner reported that"
        " somebody else was trying to log in.",
        "ldapmfa user show NAME says since when and why; ldapmfa user unblock NAME ends it.",
    ),
    # then the second factor
    "no-code": Explanation(
        "The password was right, and no code came with it though the account has a second factor.",
        "Type the code as well, where this listener expects it (code, code_digits, delimiter).",
    ),
    "not-enrolled": Explanation(
        "The password was right, and the account has no second factor.",
        "Enrol it: ldapmfa user enrol NAME. If a pending enrolment should have matched, compare its name with the"
        " account's very sAMAccountName, uid, userPrincipalName or DN: ldapmfa user list.",
    ),
    "asked-already": Explanation(
        "The password was right, and the account's owner is being asked for another login at this moment.",
        "If the program binds twice for one login, let it wait for the first answer.",
    ),
    "too-many-prompts": Explanation(
        "The password was right; the user was asked login.prompts times within login.prompt_seconds, and is not asked"
        " again for a while.",
        "If the user did not log in so often, somebody else knows the password: have it changed. Else let the program"
        " wait longer for an answer, set reuse_seconds at its listener, or raise login.prompts.",
    ),
    "no-answer": Explanation(
        "The password was right; nobody answered the question in time.",
        "Does the listener's deadline give enough time, and does the program wait that long? If the user was never"
        " asked, look at the service's own log.",
    ),
    "fraud": Explanation(
        "The password was right; the user reported that somebody else tried to log in.",
        "Somebody else knows the password: have it changed at once.",
    ),
    "locked-at-service": Explanation(
        "The password was right; the service has locked the user or the device.", "Unlock it at the service."
    ),
    "throttled": Explanation(
        "Too many wrong passwords came lately, and the directory was not asked about this one: the detail names the"
        " limit of [throttle]. Where a service is named instead, the password was right, and that service says that it"
        " was asked about this user too often.",
        "Wait a little; what was refused just now is refused again for a minute, whatever form of the name is typed. If"
        " programs of many users have one address, name it in throttle.gateways; if one program has an old password,"
        " correct it.",
    ),
    "no-method": Explanation(
        "The password was right; the user can't be asked like this: the service has no such method, or no such device"
        " of the user.",
        "ldapmfa user show NAME shows the method that is set; ldapmfa factor test SERVICE --user NAME shows what there"
        " is.",
    ),
    "no-user-name": Explanation(
        "The password was right; what the user is called at the service can't be said: the account has no such name,"
        " several, or one that is another domain's.",
        'Set username in the service\'s table, for example to "{upn}".',
    ),
    "code-sent": Explanation(
        "The password was right, and a code was sent to the user: the next bind brings it.",
        "The user types the password and the code as next, from the same address.",
    ),
    "denied": Explanation(
        "The password was right; the user did not approve the login.",
        "If the user was never asked to, somebody else knows the password: have it changed.",
    ),
    "wrong-code": Explanation(
        "The password was right, the code was not.",
        "Is it of the right token, and the clock of the token and of this machine right? ldapmfa factor resync takes"
        " two consecutive codes of a token that has drifted.",
    ),
    "replayed-code": Explanation(
        "The password was right; the code was right too, but had been used already.",
        "Wait for the next code. A client that binds twice with one password can't work with codes.",
    ),
    "locked": Explanation("The password was right; too many wrong codes have locked the account's factors.", _WAIT),
    # refused before a login
    "malformed": Explanation("The bind request could not be read.", "The client does not speak LDAP (RFC 4511)."),
    "clear-text": Explanation(
        "The bind came in clear text where TLS is required, so the password was not even looked at.",
        "Let the client use ldaps:// or StartTLS. That password crossed the network in clear text: change it.",
    ),
    "version": Explanation("The bind was of LDAP version 2.", "Let the client use version 3."),
    "method": Explanation(
        "The bind was a SASL or Sicily bind (Kerberos, NTLM, DIGEST-MD5), which can carry no code.",
        "Let the client use simple binds.",
    ),
    "proxied-authorization": Explanation(
        "The bind carried a control by which it would have acted as somebody else.", "Correct the client's settings."
    ),
    "anonymous": Explanation(
        "The client bound anonymously, which this listener refuses.", "Give the client a name and a password."
    ),
    "control": Explanation("An anonymous bind carried a critical control.", "Correct the client's settings."),
    "empty-password": Explanation(
        "The bind gave a name without a password, or with nothing but a code. Some directories take that for an"
        " anonymous bind, which succeeds.",
        "Type the password before the code.",
    ),
    "too-many-logins": Explanation(
        "More logins were under way than limits.pending_logins.", "See why logins take so long, or raise the limit."
    ),
    # broken
    "client-left": Explanation(
        "The client closed the connection before its login was decided.",
        "Let it wait longer: its timeout must exceed the directory's answer.",
    ),
    "no-identity": Explanation(
        "The password was right, but the directory's answers do not say, or contradict each other on, who was bound.",
        f"ldapmfa check-config --online tries it; a service_account may read what the account itself may not. {_LOG}",
    ),
    "directory-refuses": Explanation(
        "The directory answered the bind with a code that says nothing of the password (busy, TLS demanded ...).",
        "If it demands TLS, use ldaps:// or starttls = true for it.",
    ),
    "deadline": Explanation(
        "The login was not decided within login.deadline.", f"See which part was slow: the durations tell. {_LOG}"
    ),
    "factor-down": Explanation(
        "A service that verifies second factors could not be reached, or answered as it should not.",
        "ldapmfa check-config --online asks every service for its health, ldapmfa factor test tries one for a user."
        f" {_LOG}",
    ),
    "directory-down": Explanation(
        "No server of the directory could be reached, or it did not answer in time or as a directory does.",
        "ldapmfa check-config --online tries each server.",
    ),
    "store-down": Explanation(
        "The store could not be read or written, so that no code could be used up.",
        f"Is the disk full, the database down, the key file its own? {_LOG}",
    ),
    "stopping": Explanation(
        "The program was stopped while the user was being asked; the prompt was taken back.",
        "Log in again. service.drain_seconds lets logins end before a stop.",
    ),
    "broken": Explanation("Something that a login needs was broken.", _LOG),
    "bug": Explanation("ldapmfa itself failed; the login was refused for safety.", f"Please report it. {_LOG}"),
}


def explained(reason: str) -> Explanation:
    """The explanation of `reason`; a record may have been written by a later version."""
    return REASONS.get(reason, Explanation(f"A reason this version does not know: {reason}."))
