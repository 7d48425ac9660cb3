"""Whoever presses the buttons of the demo's page where nobody sits before it: by HTTP, from what the page shows.

Promised here: it knows of the page only its address and what stands on the buttons, and shares no code with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx

#: Seconds after which the page is looked at again.
_PAUSE = 0.02


@dataclass(slots=True)
class Form:
    """A form of a page: its heading, where it leads, its hidden fields, and its buttons' fields by their labels."""

    action: str
    heading: str = ""
    hidden: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, tuple[str, str]] = field(default_factory=dict)


class Browser:
    """Looks at the page at `address`, and presses buttons on it."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def press(self, label: str, login: asyncio.Future[object]) -> str:
        """Press the button `label` of the first question as soon as there is one; gives the question.

        "": `login` ended before there was any. httpx.HTTPError: the page can't be had, or takes no answer.
        """
        # trust_env: the environment may name a proxy
        async with httpx.AsyncClient(base_url=self._address, trust_env=False, follow_redirects=True) as client:
            while not login.done():
                form = _first_form((await client.get("/")).raise_for_status().text)
                if form and not login.done():
                    name, value = form.buttons[label]
                    fields = {**form.hidden, name: value}
                    answer = await client.post(form.action, data=fields, headers={"Origin": self._address})
                    answer.raise_for_status()
                    return form.heading
                await asyncio.sleep(_PAUSE)
        return ""


def _first_form(page: str) -> Form | None:
    reader = _Forms()
    reader.feed(page)
    reader.close()
    return next(iter(reader.forms), None)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._tag = ""
        self._field = ("", "")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._tag = tag
        self._field = given.get("name", ""), given.get("value", "")
        if tag == "form":
            self.forms.append(Form(given["action"]))
        elif tag == "input" and self.forms:
            self.forms[-1].hidden.update([self._field])

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - what follows is text of nothing in particular
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self.forms and self._tag == "h2":
            self.forms[-1].heading += data
        elif self.forms and self._tag == "button":
            self.forms[-1].buttons[data] = self._field
