"""The table of kinds: a new kind of bird is one entry here, and a silhouette where none fits."""

from dataclasses import dataclass
from typing import Literal

from training.data.synthbirds.anatomy import Silhouette
from training.data.synthbirds.silhouettes import flying, perching, shore

Setting = Literal["branch", "trunk", "grass", "water", "snow", "sky", "rock", "flower"]
Size = Literal["small", "large"]


@dataclass(frozen=True)
class Kind:
    """One kind of bird: where it is seen in which silhouette, and in which words one speaks of it.

    `nouns` name the kind, commonest first; `bill_words` are true of the bill's shape; `size` is None where a bird is
    called neither small nor large.
    """

    nouns: tuple[str, ...]
    bill_words: tuple[str, ...]
    size: Size | None
    scenes: tuple[tuple[Setting, Silhouette], ...]
    crest_chance: float = 0.15
    speckled: float = 0.25
    pale_eye: bool = False
    long_legs: bool = False


KINDS: dict[str, Kind] = {
    "songbird": Kind(
        nouns=("songbird", "warbler"),
        bill_words=("short pointed", "small pointed", "short", "thin"),
        size="small",
        scenes=(
            ("branch", perching.SONGBIRD),
            ("branch", perching.SONGBIRD),
            ("grass", perching.SONGBIRD),
            ("snow", perching.SONGBIRD),
            ("rock", perching.SONGBIRD),
            ("sky", flying.SONGBIRD_FLYING),
        ),
        crest_chance=0.25,
    ),
    "finch": Kind(
        nouns=("finch", "finch", "sparrow"),
        bill_words=("thick", "short thick", "conical", "short"),
        size="small",
        scenes=(
            ("branch", perching.FINCH),
            ("branch", perching.FINCH),
            ("grass", perching.FINCH),
            ("snow", perching.FINCH),
            ("rock", perching.FINCH),
        ),
        crest_chance=0.25,
    ),
    "owl": Kind(
        nouns=("owl",),
        bill_words=("small hooked", "short", "hooked", "small"),
        size=None,
        scenes=(("branch", perching.OWL), ("branch", perching.OWL), ("snow", perching.OWL), ("rock", perching.OWL)),
        crest_chance=0.4,
        speckled=0.6,
        pale_eye=True,
    ),
    "duck": Kind(
        nouns=("duck",),
        bill_words=("flat", "broad", "wide flat"),
        size="large",
        scenes=(
            ("water", shore.DUCK_SWIMMING),
            ("water", shore.DUCK_SWIMMING),
            ("water", shore.DUCK_SWIMMING),
            ("grass", shore.DUCK_STANDING),
            ("snow", shore.DUCK_STANDING),
            ("sky", flying.DUCK_FLYING),
        ),
        crest_chance=0.12,
    ),
    "gull": Kind(
        nouns=("gull", "seagull"),
        bill_words=("hooked", "strong", "short hooked"),
        size="large",
        scenes=(
            ("sky", flying.GULL_FLYING),
            ("sky", flying.GULL_FLYING),
            ("rock", shore.GULL_STANDING),
            ("water", shore.GULL_SWIMMING),
        ),
        crest_chance=0.0,
        pale_eye=True,
    ),
    "heron": Kind(
        nouns=("heron", "heron", "egret"),
        bill_words=("long pointed", "long", "long sharp"),
        size="large",
        scenes=(("water", shore.HERON), ("water", shore.HERON), ("grass", shore.HERON), ("snow", shore.HERON)),
        crest_chance=0.5,
        pale_eye=True,
        long_legs=True,
    ),
    "parrot": Kind(
        nouns=("parrot", "parrot", "macaw"),
        bill_words=("hooked", "large hooked", "thick curved", "curved"),
        size="large",
        scenes=(
            ("branch", perching.PARROT),
            ("branch", perching.PARROT),
            ("branch", perching.PARROT),
            ("sky", flying.PARROT_FLYING),
        ),
        crest_chance=0.25,
    ),
    "hummingbird": Kind(
        nouns=("hummingbird",),
        bill_words=("long thin", "long", "thin", "needle-like"),
        size="small",
        scenes=(("flower", flying.HUMMINGBIRD), ("flower", flying.HUMMINGBIRD), ("sky", flying.HUMMINGBIRD)),
        crest_chance=0.1,
    ),
    "hawk": Kind(
        nouns=("hawk", "hawk", "falcon"),
        bill_words=("hooked", "short hooked", "sharp hooked"),
        size="large",
        scenes=(
            ("sky", flying.HAWK_FLYING),
            ("branch", perching.HAWK),
            ("rock", perching.HAWK),
            ("snow", perching.HAWK),
        ),
        crest_chance=0.1,
        speckled=0.6,
        pale_eye=True,
    ),
    "woodpecker": Kind(
        nouns=("woodpecker",),
        bill_words=("long pointed", "straight pointed", "long straight", "pointed"),
        size=None,
        scenes=(("trunk", perching.WOODPECKER), ("trunk", perching.WOODPECKER)),
        crest_chance=0.5,
    ),
}
