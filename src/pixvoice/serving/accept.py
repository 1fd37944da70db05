"""Which of the types that an address has to offer a client wants (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from pixvoice.serving.problems import Problem


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """The offer that the Accept header weighs most; the first of equals.  Raises Problem (406) if it takes none."""
    if accept is None or not accept.strip():
        return offers[0]
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    weights = [_weight(offer, ranges) for offer in offers]
    if max(weights) <= 0:
        raise Problem(406, f"Accept {accept[:60]}: this address answers with {' or '.join(offers)}")
    return offers[weights.index(max(weights))]


def _range(part: str) -> tuple[str, float]:
    """``audio/*;q=0.5`` -> its type and weight; what isn't a weight counts as 1."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        return kind, min(1.0, max(0.0, float(weight)))
    except ValueError:
        return kind, 1.0


def _weight(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The weight of the most specific range that holds the offer."""
    for wanted in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        found = [weight for kind, weight in ranges if kind == wanted]
        if found:
            return max(found)
    return 0.0
