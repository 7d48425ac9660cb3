"""What the clock on the wall says: the core has neither clock nor calendar."""

from __future__ import annotations

from datetime import datetime, tzinfo

from ldapmfa.core.rules import Moment


def moment(seconds: float, zone: tzinfo | None = None) -> Moment:
    """The moment `seconds` after the epoch in `zone`; None: where the machine is."""
    local = datetime.fromtimestamp(seconds, zone)
    return Moment(seconds, local.weekday(), local.hour * 60 + local.minute)
