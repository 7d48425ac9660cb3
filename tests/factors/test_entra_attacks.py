"""What lets nobody in by Entra, and what opens nothing (A24, A25)."""

import pytest
from fakes.entra import PATH, SECRET, Entra, User
from fakes.entra_logins import BEGIN, END, PENDING, TOKEN, WHOLE, asked, down, prompt, service
from fakes.web import Web, nobody

from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors import entra_xml
from ldapmfa.factors.service import Allowed, CodeSent, Denied

# -- A24: what is an outage


@pytest.mark.parametrize(
    ("kind", "more", "failure"),
    [*WHOLE, ("slow", {}, FactorDown), ("broken", {}, FactorDown), ("status", {"status": 504}, FactorDown)],
)
async def test_A24_begin_opens_only_where_nobody_can_have_been_asked(tmp_path, kind, more, failure):
    async with service(tmp_path, response_timeout=0.2) as run:
        run.web.disturb(kind, path=BEGIN, **more)
        with pytest.raises(FactorDown) as caught:
            await run.it.start(prompt("push"))
        assert type(caught.value) is failure
        # a 5xx may open, and counts as a prompt all the same: somebody was there
        assert caught.value.asked == (failure is FactorDown or "answers 5" in str(caught.value))
        assert caught.value.retry_after == (7 if "headers" in more else None)
        assert SECRET not in str(caught.value)
        await down(run.it.verify(prompt(), Secret(b"123456"), None))


@pytest.mark.parametrize(
    ("kind", "more", "failure"),
    [
        *WHOLE,
        ("slow", {}, FactorUnreachable),
        ("broken", {}, FactorUnreachable),
        ("status", {"status": 504}, FactorUnreachable),
    ],
)
async def test_A24_a_token_opens_only_where_there_is_an_outage(tmp_path, kind, more, failure):
    async with service(tmp_path, response_timeout=0.2) as run:
        run.web.disturb(kind, path=TOKEN, **more)
        with pytest.raises(FactorDown) as caught:
            await run.it.start(prompt("push"))
        assert type(caught.value) is failure
        assert (run.fake.asked, caught.value.asked) == ([], False)
        await down(run.it.verify(prompt(), Secret(b"123456"), None))


@pytest.mark.parametrize(("kind", "more", "_failure"), WHOLE)
async def test_A24_nothing_opens_once_somebody_was_asked(tmp_path, kind, more, _failure):
    async with service(tmp_path) as run:
        waiting, sent = await run.it.start(prompt("push")), await run.it.start(prompt("sms"))
        run.web.disturb(kind, path=END, **more)
        await down(run.it.verify(prompt(), Secret(b"123456"), sent))
        asking = prompt("push", seconds=0.1)
        if more.get("status") in {500, 503, 429}:
            assert (await run.it.wait(asking, waiting)).why == "no-answer"
        else:
            await down(run.it.wait(prompt("push"), waiting))
        run.web.disturb("status", path=TOKEN, status=500)
        run.fake.tokens.clear()
        await down(run.it.verify(prompt(), Secret(b"123456"), sent))


@pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
async def test_A24_a_certificate_that_is_not_accepted_opens_nothing(tmp_path, certificate):
    async with service(tmp_path, {"certificate": certificate}) as run:
        await down(run.it.start(prompt("push")))
        assert run.web.requests == []


async def test_A24_nobody_there_is_an_outage(tmp_path):
    with nobody() as port:
        async with service(tmp_path, service_hosts=(f"localhost:{port}",)) as run:
            with pytest.raises(FactorUnreachable):
                await run.it.start(prompt("push"))
            await down(run.it.verify(prompt(), Secret(b"123456"), None))
        async with service(tmp_path, login_host=f"localhost:{port}") as run:
            with pytest.raises(FactorUnreachable):
                await run.it.start(prompt("push"))


# -- A25: what is no yes


def said(old, new):
    return lambda text: text.replace(old, new)


TRUE = "<AuthenticationResult>true</AuthenticationResult>"
NO_YES = {
    "capitals": said(TRUE, TRUE.replace(">true<", ">True<")),
    "blanks": said(TRUE, TRUE.replace(">true<", "> true <")),
    "one": said(TRUE, TRUE.replace(">true<", ">1<")),
    "not-there": said(TRUE, ""),
    "nil": said(TRUE, '<AuthenticationResult i:nil="true"/>'),
    "nil-and-true": said(TRUE, '<AuthenticationResult i:nil="true">true</AuthenticationResult>'),
    "empty": said(TRUE, "<AuthenticationResult/>"),
    "false": said(TRUE, TRUE.replace(">true<", ">false<")),
    "challenge": said(TRUE, TRUE.replace(">true<", ">challenge<")),
    "twice": said(TRUE, TRUE + TRUE.replace(">true<", ">false<")),
    "deeper": said(TRUE, f"<Extension>{TRUE}</Extension>"),
    "with-children": said(TRUE, TRUE.replace(">true<", ">true<b/><")),
    "foreign": said(TRUE, TRUE.replace("AuthenticationResult", "x:AuthenticationResult xmlns:x='urn:x'", 1).replace("</A", "</x:A")),
    "no-value": said("<Value>Success</Value>", ""),
    "empty-value": said("<Value>Success</Value>", "<Value/>"),
    "pending": said("<Value>Success</Value>", f"<Value>{PENDING}</Value>"),
    "sms-sent": said("<Value>Success</Value>", "<Value>SMSSent</Value>"),
    "denied": said("<Value>Success</Value>", "<Value>PhoneAppDenied</Value>"),
    "unknown": said("<Value>Success</Value>", "<Value>Sucess</Value>"),
    "two-values": said("<Value>Success</Value>", "<Value>PhoneAppDenied</Value><Value>Success</Value>"),
    "two-results": said("<Result>", "<Result><Value>PhoneAppDenied</Value></Result><Result>"),
    "no-result": said("Result>", "Ergebnis>"),
    "other-operation": said("EndTwoWayAuthenticationResponse", "BeginTwoWayAuthenticationResponse"),
    "request": said("EndTwoWayAuthenticationResponse", "EndTwoWayAuthenticationRequest"),
    "namespace": said("<EndTwoWayAuthenticationResponse", '<EndTwoWayAuthenticationResponse xmlns="urn:x"'),
    "other-user": said(TRUE, TRUE + "<UserPrincipalName>bob@example.com</UserPrincipalName>"),
    "other-session": said(TRUE, TRUE + "<SessionId>0</SessionId>"),
    "soap": lambda text: f"<Envelope><Body>{text}</Body></Envelope>",
    "comment": said(">true<", "><!-- -->true<"),
    "cdata": said(">true<", "><![CDATA[true]]><"),
    "entity": lambda text: "<!DOCTYPE a [<!ENTITY yes 'true'>]>" + text.replace(">true<", ">&yes;<"),
    "doctype": lambda text: "<!DOCTYPE EndTwoWayAuthenticationResponse>" + text,
    "utf-16": lambda text: ('<?xml version="1.0" encoding="utf-16"?>' + text).encode("utf-16"),
    "not-utf-8": lambda text: text.replace("<Version>1<", "<Version>\xe4<").encode("latin-1"),
    "cut": lambda text: text[:-10],
    "tail": lambda text: text + text,
    "json": lambda _text: '{"Result": {"Value": "Success"}, "AuthenticationResult": true}',
    "nothing": lambda _text: "",
    "nul": lambda text: text.replace("<Version>1", "<Version>\0"),
    "deep": lambda _text: "<a>" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", NO_YES)
async def test_A25_only_a_plain_yes_to_this_question_is_one(tmp_path, name):
    async with service(tmp_path) as run:
        run.alice.presses = ["Success"]
        run.fake.forge = lambda operation, text: NO_YES[name](text) if operation.startswith("End") else text
        for question in (
            lambda: asked(run, "push", seconds=0.1),
            lambda: run.it.verify(prompt(seconds=0.1), Secret(b"123456"), None),
        ):
            run.alice.used.clear()
            try:
                answer = await question()
            except FactorDown as error:
                assert not isinstance(error, FactorUnreachable)  # noqa: PT017 - either way is right
            else:
                assert isinstance(answer, Denied)


def test_A25_only_success_with_true_is_a_yes():
    def outcome(value, authenticated):
        try:
            return entra_xml.Answer(value, authenticated).outcome()
        except ValueError:
            return None

    values = ["Success", PENDING, "SMSSent", *entra_xml.REFUSALS, *entra_xml.FAILURES, "SomethingNew"]
    every = [(value, said) for value in values for said in ("true", "false", "challenge", None)]
    assert [pair for pair in every if outcome(*pair) == "allowed"] == [("Success", "true")]
    assert outcome("Success", "false") == Denied("denied", "Success, not authenticated")
    assert outcome(PENDING, "true") is outcome("SMSSent", "true") is None
    assert (outcome(PENDING, "false"), outcome("SMSSent", "false")) == ("pending", "code")
    assert {outcome(value, "challenge") for value in ("Success", PENDING, "SMSSent")} == {"code"}


async def test_A25_a_success_that_does_not_say_of_what_ends_the_wait(tmp_path):
    async with service(tmp_path) as run:
        run.fake.forge = lambda operation, text: text.replace(TRUE, "") if operation.startswith("End") else text
        await down(asked(run, "push"))
        await down(run.it.verify(prompt(), Secret(b"123456"), None))


async def test_A25_a_yes_may_come_with_a_mark_and_an_encoding(tmp_path):
    """What a .NET service could send as well."""
    async with service(tmp_path) as run:
        run.fake.forge = lambda _, text: b"\xef\xbb\xbf" + f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()
        assert await asked(run, "push") == Allowed("push")


async def test_A25_entities_do_not_grow(tmp_path):
    bomb = "<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY {name} '{f'&{of};' * 10}'>" for of, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    async with service(tmp_path) as run:
        run.fake.forge = lambda *_: f"{bomb}]><a>&i;</a>"
        assert "DOCTYPE" in str(await down(run.it.start(prompt("push"))))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<SessionId>", "<SessionIdentifier>"),
        ("<UserPrincipalName>alice@example.com", "<UserPrincipalName>bob@example.com"),
        ("<UserPrincipalName>alice@example.com", "<UserPrincipalName>alice@example.com.evil.example"),
        ("BeginTwoWayAuthenticationResponse", "EndTwoWayAuthenticationResponse"),
        ("<Value>Success</Value>", ""),
    ],
)
async def test_A25_a_question_that_is_not_ours_is_none(tmp_path, old, new):
    async with service(tmp_path) as run:
        closing = new.replace("<", "</") if old == "<SessionId>" else "</SessionId>"
        run.fake.forge = lambda _, text: text.replace(old, new).replace("</SessionId>", closing)
        await down(run.it.start(prompt("push")))
        await down(run.it.start(prompt("sms")))
        await down(run.it.verify(prompt(), Secret(b"123456"), None))


async def test_A25_a_yes_before_the_code_was_seen_is_none(tmp_path):
    async with service(tmp_path) as run:
        run.fake.forge = lambda _, text: text.replace('<AuthenticationResult i:nil="true"/>', TRUE)
        await down(run.it.verify(prompt(), Secret(b"654321"), None))
        await down(run.it.start(prompt("otp")))
        await down(run.it.start(prompt("sms")))


async def test_A25_an_approval_counts_once(tmp_path):
    async with service(tmp_path) as run:
        waiting = await run.it.start(prompt("push"))
        assert await run.it.wait(prompt("push"), waiting) == Allowed("push")
        assert await run.it.wait(prompt("push"), waiting) == Denied("no-answer", "InvalidSession")


async def test_A25_a_code_sent_to_another_user_is_of_no_use(tmp_path):
    async with service(tmp_path) as run:
        run.fake.users["bob@example.com"] = User()
        sent = await run.it.start(prompt("sms", user="bob@example.com"))
        before = len(run.web.requests)
        await down(run.it.verify(prompt(), Secret(b"123456"), sent))
        await down(run.it.verify(prompt(), Secret(b"123456"), CodeSent({})))
        assert len(run.web.requests) == before


@pytest.mark.parametrize(
    "shape",
    [
        "http://{ours}{path}/EndTwoWayAuthentication",
        "https://{other}{path}/EndTwoWayAuthentication",
        "https://{ours}@{other}{path}/EndTwoWayAuthentication",
        "https://user:word@{ours}{path}/EndTwoWayAuthentication",
        "https://{ours}.evil.example{path}/EndTwoWayAuthentication",
        "https://{ours}/elsewhere?dc=KRS",
        "https://{ours}{path}/../../EndTwoWayAuthentication",
        "https://{ours}{path}/EndTwoWayAuthentication#{other}",
        "https://{ours}{path}/EndTwoWayAuthentication?dc=a b",
        "https://{ours}\\@{other}{path}/EndTwoWayAuthentication",
        "//{other}{path}/EndTwoWayAuthentication",
        "https://[::1{path}/EndTwoWayAuthentication",
        "file:///etc/passwd",
        "",
    ],
)
async def test_A25_the_token_goes_to_no_place_that_an_answer_makes_up(tmp_path, shape):
    strangers = tmp_path / "strangers"
    strangers.mkdir()

    async def answer(_request):
        raise AssertionError("a stranger was asked")

    async with Web(strangers, answer) as other, service(tmp_path) as run:
        ours = f"localhost:{run.web.port}"
        run.fake.affinity = shape.format(ours=ours, other=f"localhost:{other.port}", path=PATH)
        for question in (asked(run, "push"), run.it.start(prompt("sms"))):
            answered = await question
        assert isinstance(await run.it.verify(prompt(), Secret(b"123456"), answered), Allowed)
        assert other.connections == 0
        if shape:
            assert set(run.fake.polls) == {f"{PATH}/EndTwoWayAuthentication"}
            assert any("AffinityUrl" in text for text in run.said)


async def test_a_data_centre_is_asked_where_it_is_one_of_our_hosts(tmp_path):
    """On the same port here, under its other name: the fake hears that by the Host header."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fake = Entra(tmp_path)
    other = Web(elsewhere, fake._answer, host="127.0.0.1")
    bundle = tmp_path / "both.pem"
    bundle.write_bytes(fake.web.ca_file.read_bytes() + other.ca_file.read_bytes())
    hosts = (f"localhost:{fake.web.port}", f"127.0.0.1:{other.port}")
    async with other, service(tmp_path, fake=fake, ca_file=bundle, service_hosts=hosts) as run:
        fake.affinity = f"https://127.0.0.1:{other.port}{PATH}?dc=AMS"
        assert await asked(run, "push") == Allowed("push")
        assert {request.target for request in other.requests} == {f"{PATH}/EndTwoWayAuthentication?dc=AMS"}
