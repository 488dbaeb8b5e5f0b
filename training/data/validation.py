"""The validation split: training pictures that are held out to choose a checkpoint by, so that test is only reported.

CUB holds out whole classes, because its test classes are unseen too; a stream of shards, whole shards; other data sets,
single pictures, or groups of pictures that share captions.
"""

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

from training.config import DataConfig
from training.data.source import DataError, Listing, open_source, require_usable


class Division(NamedTuple):
    """A training split in two."""

    training: Listing
    validation: Listing
    held_out: str
    """What validation holds, in words: "15 of 150 classes, 885 pictures"; empty if it holds nothing."""


def divide(listing: Listing, share: float, source: str) -> Division:
    """Holds out a share (0 to 0.5) of a training split's units. Raises `DataError` if that leaves nothing to train on.

    The choice depends on the names of the units alone: a copy, or a packed one, holds out the same pictures.
    """
    units = {item.unit for item in listing.items}
    chosen = held_out(units, share, source, listing.units)
    if not chosen:
        return Division(listing, replace(listing, items=(), problems=()), "")
    digest = sha256("\n".join(sorted(chosen)).encode()).hexdigest()[:12]
    training = [item for item in listing.items if item.unit not in chosen]
    validation = [item for item in listing.items if item.unit in chosen]
    return Division(
        replace(listing, items=training, fingerprint=f"{listing.fingerprint}-without-{digest}"),
        replace(listing, items=validation, fingerprint=f"{listing.fingerprint}-validation-{digest}", problems=()),
        described(len(chosen), len(units), listing.units, len(validation)),
    )


def held_out(units: Iterable[str], share: float, source: str, called: str) -> frozenset[str]:
    """The units to hold out: a share of them, at least one unless it is 0, the first in the order of their SHA-256.

    Raises `DataError` if these are all. Units are `called` classes, shards, …
    """
    order = sorted(set(units), key=lambda unit: sha256(unit.encode()).digest())
    if not share:
        return frozenset()
    if len(order) < 2:
        raise DataError(f"{source}: too few {called} to hold one out, {len(order)}; set data.validation_share: 0")
    return frozenset(order[: max(1, round(share * len(order)))])


def described(chosen: int, units: int, called: str, pictures: int) -> str:
    """How many are held out, in words."""
    return f"{chosen:,} of {units:,} {called}" + ("" if called == "pictures" else f", {pictures:,} pictures")


def validation_listing(config: DataConfig) -> Listing:
    """The pictures that a config's run holds out. Raises `DataError`, also if there are none."""
    source = open_source(config.source, config.synthbirds_count)
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    found = divide(listing, config.validation_share, config.source).validation
    if not found.items:
        raise DataError(
            f"{config.source}: no picture is held out to validate with; set data.validation_share, to 0.1 for example"
        )
    return found
