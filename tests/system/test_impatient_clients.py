"""FreeRADIUS and Apache, which give up after some seconds and bind once more, while a push is slow to be approved.

Each logs in at three listeners: one at which nothing counts twice, one with late approval, one with reuse. The owner
approves only when the client has given up once. All of that happens at the same time.
"""

import collections
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from fakes.webhook import APPROVED, Approvals
from system.clients import Door, LoginError, start
from system.proxy import Proxy
from system.servers.common import free_port, wait_for

pytestmark = pytest.mark.xdist_group("push-services")

PATIENCE = 3
LISTENERS = {"off": "", "late": "late_approval_seconds = 30", "reuse": "reuse_seconds = 30\nlate_approval_seconds = 30"}


class Owners(Approvals):
    """Who is in `willing` has pressed yes. `prompts` are the questions that were put, by user; `taken` those back."""

    def __init__(self, directory):
        super().__init__(directory, tls=False, host="127.0.0.1")
        self.willing, self.users = set(), {}
        self.prompts, self.taken = collections.Counter(), collections.Counter()
        self.forge = self._about

    def _about(self, answer):
        action, transaction = answer["action"], answer["transaction"]
        if action == "start":
            self.users[transaction] = self.asked[-1][2]["user"]
        user = self.users.get(transaction)
        self.prompts[user] += action == "start"
        self.taken[user] += action == "cancel"
        yes = action == "poll" and user in self.willing
        return answer | {"body": json.dumps(APPROVED).encode()} if yes else answer


@dataclass
class Outcome:
    """How a login ended: whether the client let the user in, None if it broke; what was asked and recorded."""

    came_in: bool | None
    prompts: int
    taken: int
    reasons: list


@pytest.fixture(scope="module", params=[1, 2], ids="{}-workers".format)
def outcomes(request, slapd, tmp_path_factory):
    path = tmp_path_factory.mktemp("impatient")
    ports = {name: free_port() for name in LISTENERS}
    with contextlib.ExitStack() as stack:
        owners = stack.enter_context(Owners(path))
        proxy = Proxy(
            slapd, path / "proxy", workers=request.param, login='factors = ["webhook"]\ndeadline = 25\ncode = "delimiter"',
            services={"webhook": owners.table | {"poll_seconds": 0.2}},
            extra="".join(f'\n[[listen]]\nname = "{name}"\nendpoint = "tcp:{port}:interface=127.0.0.1"\n{LISTENERS[name]}\n' for name, port in ports.items()),
        )  # fmt: skip
        stack.enter_context(proxy)
        cases = [(product, listener) for product in ("freeradius", "apache") for listener in LISTENERS]
        users = dict(zip(cases, [f"bulk12{number:02d}" for number in range(len(cases))], strict=True))

        def client(product, listener):
            door = Door.of(slapd, proxy.host, ports[listener], tls=False)
            return start(product, door, path, PATIENCE)

        clients = {case: stack.enter_context(client(*case)) for case in cases}

        def reasons(name):
            dn = slapd.user(name).dn
            return [event["reason"] for event in proxy.records() if event.get("dn", event["name"]).lower() == dn.lower()]

        def log_in(case):
            name = users[case]
            try:
                came_in = clients[case].login(name, slapd.user(name).password)
            except LoginError:
                came_in = None
            return Outcome(came_in, owners.prompts[name], owners.taken[name], reasons(name))

        def approve(name):
            wait_for(lambda: "client-left" in reasons(name), 15)
            owners.willing.add(name)

        with ThreadPoolExecutor(2 * len(cases)) as pool:
            approving = [pool.submit(approve, name) for name in users.values()]
            found = dict(zip(cases, pool.map(log_in, cases), strict=True))
            for one in approving:
                one.result()
        yield found


@pytest.mark.parametrize("listener", ["late", "reuse"])
@pytest.mark.parametrize("product", ["freeradius", "apache"])
def test_one_prompt_and_a_login_in_the_end_where_late_approvals_count(outcomes, product, listener):
    found = outcomes[product, listener]
    assert (found.came_in, found.prompts, found.taken) == (True, 1, 0), found
    assert found.reasons == ["client-left", "late-approval"], found


@pytest.mark.parametrize("product", ["freeradius", "apache"])
def test_otherwise_the_prompt_is_taken_back_and_another_one_put_or_the_bind_is_refused(outcomes, product):
    """Refused, where the client is so quick that it binds again before it is known that it has left."""
    found = outcomes[product, "off"]
    again = (found.came_in, found.prompts, found.reasons) == (True, 2, ["client-left", "approved"])
    refused = (found.came_in, found.prompts, sorted(found.reasons)) == (False, 1, ["asked-already", "client-left"])
    assert again or refused, found
    assert found.taken == 1
