"""When something happens, as rules look at it."""

from __future__ import annotations

from datetime import datetime, tzinfo

from ldapmfa.core.rules import Moment


def moment(seconds: float, zone: tzinfo | None) -> Moment:
    """So many seconds since the epoch, by a clock on a wall in `zone`; None: where this machine is."""
    local = datetime.fromtimestamp(seconds, zone)
    return Moment(seconds, local.weekday(), local.hour * 60 + local.minute)
