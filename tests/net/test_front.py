"""The listening side, on a whole proxy in memory."""

from world import ALICE, PASSWORD, SERVICE, bind, search


async def test_a_login_with_password_and_code(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0, house.events
    assert client.state == "BOUND"
    assert house.directory.binds() == [(ALICE, PASSWORD)]
    client.send(search(2))
    assert await client.code() == 0
    assert [event.outcome for event in house.events] == ["accepted"]


async def test_a_wrong_code_is_refused_after_the_floor(house):
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + "000000"))
    await house.idle()
    assert client.take() == []
    house.clock.advance(0.2)
    await house.until(lambda: True)
    assert client.take() == []
    house.clock.advance(0.06)
    assert await client.code() == 49
    assert client.state == "ANONYMOUS"


async def test_an_exempt_account_needs_no_code(house):
    await house.open()
    client = house.client()
    assert await client.log_in(SERVICE, PASSWORD) == 0
    assert house.events[-1].reason == "exempt"
