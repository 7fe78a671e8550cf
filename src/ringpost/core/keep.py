"""How long a row is kept once it has ended: as long as somebody may still ask for its outcome, or repeat it."""

HOUR_S = 3600
KEEP_PLAIN_S = HOUR_S
KEEP_WAITED_FOR_S = 24 * HOUR_S
KEEP_KEYED_S = 7 * 24 * HOUR_S
KEEP_DEAD_S = 30 * 24 * HOUR_S
KEEP_LONGEST_S = KEEP_DEAD_S


def keep_s(*, keyed: bool = False, waited_for: bool = False, repeatable: bool = False) -> int:
    """Give the seconds for which a row is kept after its end.

    `keyed`: it has an idempotency key. `waited_for`: it has a reply, a `reply_to`, or a 202 was given for it.
    `repeatable`: it came over HTTP under an id of its sender's, who may repeat it.
    """
    if keyed or repeatable:
        return KEEP_KEYED_S
    return KEEP_WAITED_FOR_S if waited_for else KEEP_PLAIN_S
