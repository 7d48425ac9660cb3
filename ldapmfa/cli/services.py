"""Services tried from the command line: one for one user, step by step, and the health of all.

Not in here: the login that asks them (`ldapmfa.net.asking`), and what any of them is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ldapmfa import factors
from ldapmfa.cli.reasons import explained
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting

if TYPE_CHECKING:
    from ldapmfa.config import Config
    from ldapmfa.factors.service import Answer, Service

#: Where a question comes from that the command line asks.
APPLICATION: Final = "ldapmfa factor test"


@dataclass
class Health:
    """What a service's health is: in a few words, or what is broken."""

    service: str
    kind: str
    found: str = ""
    broken: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The same as values."""
        return {"service": self.service, "kind": self.kind, "found": self.found}


async def check(config: Config) -> list[Health]:
    """Ask every service of the configuration for its health; nobody's phone rings."""
    services = factors.load_services(config.every_factor, config.factors, lambda _name: Tools())

    async def one(name: str, service: Service) -> Health:
        table = config.factors[name]
        health = Health(name, table.kind)
        try:
            async with asyncio.timeout(table.connect_timeout + 3 * table.response_timeout):
                health.found = await service.health()
        except FactorDown as down:
            health.broken.append(f"factors.{name}: {down}")
        except TimeoutError:
            health.broken.append(f"factors.{name}: did not answer in time")
        finally:
            await service.close()
        return health

    return list(await asyncio.gather(*(one(name, service) for name, service in services.items())))


@dataclass(frozen=True, slots=True)
class Tried:
    """How a trial ended: accepted, refused or broken, why, and what can be done about it."""

    outcome: str
    reason: str
    meaning: str
    remedy: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried: a service, its user, how to ask, and what the user types if a code is wanted."""

    name: str
    user: str
    method: str = ""
    device: str = ""
    code: Secret | None = None
    password: Secret | None = None
    seconds: float = 60.0


def wants_password(config: Config, name: str) -> bool:
    """Whether the service must see the password."""
    return factors.load_services([name], config.factors, lambda _name: Tools())[name].wants_password


def ways(config: Config) -> list[str]:
    """All ways in which somebody may be asked, without devices, and "code"."""
    loaded = factors.load_services(config.every_factor, config.factors, lambda _name: Tools())
    methods = {name: tuple(service.methods) for name, service in loaded.items() if service.methods}
    plain = list(dict.fromkeys(method for known in methods.values() for method in known))
    return ["code", *plain, *methods, *(f"{name}/{method}" for name, known in methods.items() for method in known)]


async def play(
    config: Config, trial: Trial, *, step: Callable[[str], None], ask_code: Callable[[], Secret | None]
) -> Tried:
    """Play it; `step` hears what is done and what came of it, `ask_code` gives the code that was sent."""
    table = config.factors[trial.name]
    service = factors.load_services([trial.name], config.factors, lambda _name: Tools(say=step))[trial.name]
    identity = Identity("test", "dn:" + trial.user, trial.user, (trial.user,))
    prompt = Prompt(
        identity,
        trial.user,
        APPLICATION,
        method=trial.method,
        device=trial.device,
        seconds=trial.seconds,
        password=trial.password if service.wants_password else None,
    )
    try:
        step(f"{trial.name} ({table.kind}) is asked for its health; this asks nobody.")
        step(f"It is well: {await service.health()}.")
        if trial.code is not None:
            step(f"The code is given to it, as one of the user {trial.user}.")
            answer: Answer | None = await service.verify(prompt, trial.code, None)
        else:
            answer = await _asked(service, prompt, step, ask_code)
    except FactorDown as down:
        why = explained("factor-down")
        more = " Nobody can have been asked." if isinstance(down, FactorUnreachable) else ""
        return Tried("broken", "factor-down", why.meaning + more, why.remedy, str(down))
    finally:
        await service.close()
    if isinstance(answer, Allowed):
        return Tried("accepted", answer.how, f"The service vouches for {trial.user}.", "")
    if isinstance(answer, Denied):
        why = explained(answer.why)
        return Tried("refused", answer.why, why.meaning, why.remedy, answer.detail)
    return Tried("refused", "code-sent", "A code was sent, and none was typed.", "Type it when asked for it.")


async def _asked(
    service: Service, prompt: Prompt, step: Callable[[str], None], ask_code: Callable[[], Secret | None]
) -> Answer | None:
    step(f"It is to ask the user {prompt.user}" + (f" by {prompt.method}." if prompt.method else "."))
    started = await service.start(prompt)
    if isinstance(started, Waiting):
        step(f"The user is being asked; answer within {prompt.seconds:g} seconds.")
        try:
            async with asyncio.timeout(prompt.seconds + 5):
                return await service.wait(prompt, started)
        except TimeoutError:
            return Denied("no-answer")
        except asyncio.CancelledError:
            await service.cancel(prompt, started)
            raise
    if isinstance(started, CodeSent):
        step("A code was sent; it counts for the next bind from the same address.")
        code = await asyncio.get_running_loop().run_in_executor(None, ask_code)
        return None if code is None else await service.verify(prompt, code, started)
    return started
