"""A second factor for the demo: a page in the browser asks what a cloud service would ask on alice's phone.

Promised here: the page is on loopback and nowhere else; only the page itself can press its buttons, not one that a
stranger's site shows or a name that it points here (the Host, the Origin, and a token for each question are checked);
what a client sent is shown as text, never as markup; nothing but the button "Approve" lets anybody in. Not in here: who
may open the page. Everybody on this machine may, which is why this is no factor that a configuration can name.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.web.resource import Resource
from twisted.web.server import Site

from ldapmfa.audit import printable
from ldapmfa.config import ServiceTable
from ldapmfa.errors import FactorDown
from ldapmfa.factors.service import Allowed, Answer, Denied, Prompt, Started, Waiting

if TYPE_CHECKING:
    from twisted.web.server import Request

    from ldapmfa.core.secret import Secret
    from ldapmfa.factors.service import CodeSent, Tools

#: The kind of the service.
KIND: Final = "demo"


@dataclass(frozen=True, slots=True)
class Button:
    """What stands on it, what it answers, and how that is told afterwards."""

    label: str
    answer: Answer
    told: str


BUTTONS: Final = {
    "approve": Button("Approve", Allowed("push"), "You approved it."),
    "deny": Button("Deny", Denied("denied", "Deny was pressed"), "You denied it."),
    "fraud": Button("Report fraud", Denied("fraud", "Report fraud was pressed"), "You reported it as fraud."),
}


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked; whoever has its `token` answers it, once. `until` is a time of the event loop."""

    text: str
    account: str
    until: float
    token: str = field(repr=False)
    answer: asyncio.Future[Answer | None] = field(repr=False)  #: None: it was closed

    @property
    def open(self) -> bool:
        """Whether it can still be answered."""
        return not self.answer.done() and asyncio.get_running_loop().time() < self.until


class Phone:
    """The service, a `Service` as any other: its questions wait for `press`."""

    Table: ClassVar[type[ServiceTable]] = ServiceTable
    methods: ClassVar[Sequence[str]] = ("push",)
    takes_codes: ClassVar[bool] = False
    wants_password = False

    def __init__(self, table: ServiceTable, tools: Tools) -> None:  # noqa: ARG002 - there is nothing to set
        self._tools = tools
        self._asked: list[Question] = []
        self.told: deque[tuple[str, str]] = deque(maxlen=3)  #: the last questions and what became of them, newest first

    @property
    def questions(self) -> list[Question]:
        """Those that can be answered now."""
        return [question for question in self._asked if question.open]

    def press(self, token: str, button: str) -> bool:
        """Answer the question that has this token; False: there is none, or it is answered, or nobody waits for it."""
        for question in self.questions:
            if hmac.compare_digest(question.token.encode(), token.encode()):
                question.answer.set_result(BUTTONS[button].answer)
                self.told.appendleft((question.text, BUTTONS[button].told))
                return True
        return False

    async def start(self, prompt: Prompt) -> Started:
        """Put the question on the page."""
        if prompt.method not in ("", *self.methods) or prompt.device:
            return Denied("no-method", "the page is the only device")
        user, application, client = (printable(text) for text in (prompt.user, prompt.application, prompt.client))
        loop = asyncio.get_running_loop()
        question = Question(
            text=f"{user} wants to sign in to {application} from {client or 'an unknown address'}",
            account=prompt.identity.key,
            until=loop.time() + prompt.seconds,
            token=base64.urlsafe_b64encode(self._tools.entropy(24)).decode(),
            answer=loop.create_future(),
        )
        self._asked = [*self.questions, question]
        self._tools.say("The page shows the question.")
        return Waiting(question)

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Which button is pressed; when nobody waits any more, the question is gone."""
        question: Question = waiting.handle
        if question not in self._asked or question.account != prompt.identity.key:
            raise FactorDown("this question was not asked, or is answered")
        try:
            async with asyncio.timeout_at(question.until):
                answer = await question.answer
        except TimeoutError:
            self.told.appendleft((question.text, "Nobody answered in time."))
            return Denied("no-answer")
        finally:
            await self.cancel(prompt, waiting)
        if answer is None:
            raise FactorDown("the page was closed")
        return answer

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:  # noqa: ARG002 - it has none
        """No code is right: the page shows none."""
        return Denied("wrong-code", "the page knows no codes")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:  # noqa: ARG002 - the question knows whose it is
        """Take the question off the page."""
        self._asked = [question for question in self._asked if question is not waiting.handle]

    async def health(self) -> str:
        """It is part of this program."""
        return "a page of this program"

    async def close(self) -> None:
        """Nobody is asked any more."""
        for question in self.questions:
            question.answer.set_result(None)


# -- the page

_STYLE: Final = """
:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif }
body { max-width: 30rem; margin: 12vh auto; padding: 0 1rem }
h1, footer, ul { font-size: .9rem; font-weight: normal; opacity: .7 }
form { border: 1px solid #8886; border-radius: 1rem; padding: 1rem 1.5rem 1.5rem; box-shadow: 0 .5rem 2rem #0003 }
h2 { font-size: 1.3rem; overflow-wrap: anywhere }
button { font: inherit; padding: .5rem 1rem; border: 1px solid #8888; border-radius: .5rem; margin-right: .3rem }
button[value=approve] { background: #18794e; border-color: #18794e; color: #fff }
button[value=fraud] { color: #d13438 }
footer { margin-top: 1.5rem }
ul { padding: 0; list-style: none; overflow-wrap: anywhere }
"""

_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # not no-referrer: a browser would then hide the Origin, which is checked
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
}

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{refresh}; url=/">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>The demo of ldapmfa: this page is alice's phone</h1>
{main}
<footer>It looks for questions by itself.</footer>
</body>
</html>
"""

_FORM: Final = """\
<form method="post" action="/answer">
<h2>{text}</h2>
<p>Is it you? The login waits for another {seconds} seconds.</p>
<input type="hidden" name="token" value="{token}">
{buttons}
</form>
"""
_BUTTON: Final = '<button name="answer" value="{name}">{label}</button>'


class Page(Resource):
    """The page of `phone`: its open questions at `/`, each with three buttons that lead to `/answer`."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, phone: Phone) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._phone = phone

    def render(self, request: Request) -> bytes:
        """Whatever is asked, by whatever method."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        code, main = self._answer(request)
        request.setResponseCode(code)
        return self._page(main).encode()

    def _answer(self, request: Any) -> tuple[int, str]:
        """The status, and what the page says in the place of its questions."""
        here = {f"{name}:{request.getHost().port}" for name in ("127.0.0.1", "localhost")}
        host = _only(request.requestHeaders.getRawHeaders("host"))
        if host not in here:
            return 421, "<p>This page is not at that address.</p>"
        if request.uri == b"/" and request.method in (b"GET", b"HEAD"):
            return 200, ""
        if request.uri == b"/answer" and request.method == b"POST":
            if _only(request.requestHeaders.getRawHeaders("origin")) != f"http://{host}":
                return 403, "<p>Another page sent this. Nothing was answered.</p>"
            return self._pressed(request)
        return 404, "<p>There is nothing here.</p>"

    def _pressed(self, request: Any) -> tuple[int, str]:
        values = {name: [value.decode("utf-8", "replace") for value in given] for name, given in request.args.items()}
        token, button = _only(values.get(b"token")), _only(values.get(b"answer"))
        if button not in BUTTONS:
            return 400, "<p>There is no such button.</p>"
        if not self._phone.press(token, button):
            return 410, "<p>This question is not open any more. Nothing was answered.</p>"
        request.setHeader("Location", "/")
        return 303, ""

    def _page(self, main: str) -> str:
        questions = self._phone.questions
        forms = "".join(map(_form, questions))
        past = "".join(f"<li>{escape(text)}: {escape(told)}</li>\n" for text, told in self._phone.told)
        return _PAGE.format(
            # rarely while there is something to press: a page that comes anew under the mouse takes the click away
            refresh=5 if main or questions else 1,
            title=f"({len(questions)}) alice's phone" if questions else "alice's phone",
            style=_STYLE,
            main=main or (forms or "<p>Nobody wants to sign in.</p>\n") + (f"<ul>\n{past}</ul>" if past else ""),
        )


def _form(question: Question) -> str:
    return _FORM.format(
        text=escape(question.text),
        seconds=round(question.until - asyncio.get_running_loop().time()),
        token=escape(question.token),
        buttons="\n".join(_BUTTON.format(name=name, label=escape(button.label)) for name, button in BUTTONS.items()),
    )


def _only(values: Sequence[str] | None) -> str:
    """The one value that was given; "" if it was none, or several."""
    return values[0] if values and len(values) == 1 else ""


@asynccontextmanager
async def served(phone: Phone, reactor: Any) -> AsyncIterator[str]:
    """Serve the page of `phone` on loopback while this lasts; gives its address."""
    site = Site(Page(phone), reactor=reactor)
    site.noisy = False
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    try:
        yield f"http://127.0.0.1:{port.getHost().port}"
    finally:
        await port.stopListening().asFuture(asyncio.get_running_loop())
