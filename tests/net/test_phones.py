"""At which number a service reaches an owner: the one that is kept here, else the directory's where that is trusted."""


import pytest
from world import ALICE, PASSWORD, SERVICE, World, bind, directory_settings, entry, ldap, result

from ldapmfa import audit
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.secret import CodeForm
from ldapmfa.core.session import Rules

PUSH = ServiceRule("push", ("push", "phone", "sms"), takes_codes=True)


def proxy(tmp_path, **settings):
    policy = Policy((Exempt(SERVICE),), services=(PUSH,))
    rules = Rules(form=CodeForm(6, b","))
    return World(tmp_path, policy=policy, rules=rules, settings=directory_settings(**settings))


def shows(house, *numbers):
    """The directory shows these numbers of alice, if it is asked for that attribute."""

    def misbehave(link, frame):
        if frame.tag != ldap.SEARCH_REQUEST or b"entryUUID" not in frame.raw:
            return None
        more = {"mobile": [number.encode() for number in numbers]} if b"mobile" in frame.raw and numbers else {}
        shown = entry(frame.id, ALICE, entryUUID=[house.directory.uuids[ALICE].encode()], uid=[b"alice"], **more)
        return [shown, result(frame.id, frame.tag)]

    house.directory.misbehave = misbehave


async def asked_at(house, typed=PASSWORD):
    """The number that the service is given."""
    before = len(house.owner.prompts)
    client = house.client()
    client.send(bind(1, ALICE, typed))
    await house.until(lambda: len(house.owner.prompts) > before)
    house.owner.say(True)
    assert await client.code() == 0
    return house.owner.prompts[-1].phone


async def set_phone(house, number):
    key = f"default/uuid:{house.directory.uuids[ALICE]}"
    change = audit.AccountChanged(at=house.now, action="phone-set", account=key, actor="root")
    assert await house.store.set_phone(key, number, change)


async def test_A48_the_directorys_number_counts_only_where_that_is_configured(tmp_path):
    house = proxy(tmp_path)
    await house.open()
    shows(house, "+4930111")
    try:
        assert await asked_at(house) is None
        await set_phone(house, "+4930222222")
        assert await asked_at(house) == "+4930222222"
    finally:
        await house.close()


@pytest.mark.parametrize(
    ("numbers", "phone"),
    [
        (("+49 (30) 111-1111",), "+49301111111"),
        (("030 1111111",), None),
        (("+4930111111", "+4930222222"), None),
        ((), None),
    ],
)
async def test_of_the_directory_one_number_in_e164_is_taken(tmp_path, numbers, phone):
    house = proxy(tmp_path, phone_attribute="mobile")
    await house.open()
    shows(house, *numbers)
    try:
        assert await asked_at(house) == phone
    finally:
        await house.close()


async def test_A48_the_number_that_is_kept_here_goes_before_the_directorys(tmp_path):
    house = proxy(tmp_path, phone_attribute="mobile")
    await house.open()
    shows(house, "+4930111111")
    try:
        await set_phone(house, "+4930222222")
        assert await asked_at(house) == "+4930222222"
    finally:
        await house.close()
