"""The table of kinds: a new kind of bird is one entry here, and a silhouette where none fits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from training.data.synthbirds.anatomy import Part, Silhouette
from training.data.synthbirds.colours import Colour
from training.data.synthbirds.silhouettes import flying, ground, perching, shore

Setting = Literal[
    "branch", "trunk", "fence", "nest", "grass", "meadow", "flower", "beach", "rock", "ice", "snow", "water", "sky"
]
Plumage = Mapping[Part, Colour]
Scenes = tuple[tuple[Setting, Silhouette], ...]

PERCHES: tuple[Setting, ...] = ("branch", "branch", "fence", "rock", "nest")
GROUND: tuple[Setting, ...] = ("grass", "meadow", "beach", "rock", "snow", "ice")


@dataclass(frozen=True)
class Kind:
    """One kind of bird: the settings and silhouettes in which it is seen, and the words for it.

    `nouns` name the kind, commonest first; `families` name several kinds that it is one of; `names` are nouns of those
    that have certain colours, as a robin has an orange breast. `bill_words` are true of the bill's shape. `natural` is
    the best-known plumage: its main colour on the back, which parts that are not listed share.
    """

    nouns: tuple[str, ...]
    bill_words: tuple[str, ...]
    scenes: Scenes
    natural: Plumage
    families: tuple[str, ...] = ()
    names: Mapping[str, Plumage] = field(default_factory=dict)
    crest_chance: float = 0.15
    speckled: float = 0.1
    pale_eye: bool = False
    long_legs: bool = False


def at(silhouette: Silhouette, *settings: Setting) -> Scenes:
    """A silhouette in several settings; one that is named twice is twice as frequent."""
    return tuple((setting, silhouette) for setting in settings)


KINDS: dict[str, Kind] = {
    "songbird": Kind(
        nouns=("songbird", "warbler"),
        bill_words=("short pointed", "small pointed", "short", "thin"),
        scenes=(
            *at(perching.SONGBIRD, *PERCHES, "grass", "snow", "meadow"),
            *at(flying.SONGBIRD_FLYING, "sky", "sky"),
        ),
        natural={"back": "brown", "breast": "orange", "face": "orange", "belly": "white", "bill": "black"},
        names={
            "robin": {"breast": "orange"},
            "canary": dict.fromkeys(("back", "wings", "breast"), "yellow"),
            "cardinal": dict.fromkeys(("back", "wings", "breast"), "red"),
            "bluebird": dict.fromkeys(("back", "wings", "crown"), "blue"),
            "blackbird": dict.fromkeys(("back", "wings", "breast"), "black"),
            "crow": dict.fromkeys(("back", "wings", "breast", "belly"), "black"),
        },
        crest_chance=0.2,
    ),
    "finch": Kind(
        nouns=("finch", "sparrow"),
        bill_words=("thick", "short thick", "conical", "short"),
        scenes=at(perching.FINCH, *PERCHES, "grass", "snow", "meadow"),
        natural={"back": "brown", "breast": "grey", "belly": "grey", "face": "grey", "bill": "black"},
        families=("songbird",),
        crest_chance=0.2,
    ),
    "owl": Kind(
        nouns=("owl",),
        bill_words=("small hooked", "short", "hooked", "small"),
        scenes=at(perching.OWL, *PERCHES, "snow"),
        natural={"back": "brown", "belly": "white", "face": "white", "bill": "yellow"},
        families=("raptor",),
        crest_chance=0.4,
        speckled=0.3,
        pale_eye=True,
    ),
    "hawk": Kind(
        nouns=("hawk", "falcon"),
        bill_words=("hooked", "short hooked", "sharp hooked"),
        scenes=(
            *at(perching.HAWK, "branch", "branch", "rock", "fence", "nest"),
            *at(flying.HAWK_FLYING, "sky", "sky"),
        ),
        natural={"back": "brown", "breast": "white", "belly": "white", "bill": "grey", "legs": "yellow"},
        families=("raptor",),
        crest_chance=0.1,
        speckled=0.3,
        pale_eye=True,
    ),
    "eagle": Kind(
        nouns=("eagle",),
        bill_words=("large hooked", "strong hooked", "hooked", "big curved"),
        scenes=(
            *at(perching.EAGLE, "branch", "branch", "rock", "rock", "fence", "nest"),
            *at(flying.EAGLE_FLYING, "sky", "sky", "sky"),
        ),
        natural={
            "back": "brown",
            "crown": "white",
            "face": "white",
            "tail": "white",
            "bill": "yellow",
            "legs": "yellow",
        },
        families=("raptor",),
        crest_chance=0.1,
        pale_eye=True,
    ),
    "parrot": Kind(
        nouns=("parrot", "parrot", "macaw"),
        bill_words=("hooked", "large hooked", "thick curved", "curved"),
        scenes=(
            *at(perching.PARROT, "branch", "branch", "branch", "fence", "rock"),
            *at(flying.PARROT_FLYING, "sky"),
        ),
        natural={"back": "green", "face": "red", "bill": "white"},
        crest_chance=0.2,
    ),
    "toucan": Kind(
        nouns=("toucan",),
        bill_words=("huge", "very large", "long thick", "large curved"),
        scenes=at(perching.TOUCAN, "branch", "branch", "branch", "fence", "rock"),
        natural={"back": "black", "face": "white", "breast": "white", "bill": "orange"},
        crest_chance=0.1,
    ),
    "kingfisher": Kind(
        nouns=("kingfisher",),
        bill_words=("long pointed", "long", "long straight", "dagger-like"),
        scenes=at(perching.KINGFISHER, "branch", "branch", "branch", "fence", "rock"),
        natural={"back": "blue", "breast": "orange", "belly": "orange", "face": "white", "bill": "black"},
        crest_chance=0.6,
    ),
    "hummingbird": Kind(
        nouns=("hummingbird",),
        bill_words=("long thin", "long", "thin", "needle-like"),
        scenes=at(flying.HUMMINGBIRD, "flower", "flower", "sky"),
        natural={"back": "green", "face": "red", "belly": "white", "bill": "black"},
        crest_chance=0.1,
    ),
    "woodpecker": Kind(
        nouns=("woodpecker",),
        bill_words=("long pointed", "straight pointed", "long straight", "pointed"),
        scenes=at(perching.WOODPECKER, "trunk"),
        natural={"back": "black", "crown": "red", "breast": "white", "belly": "white", "bill": "grey"},
        crest_chance=0.5,
    ),
    "duck": Kind(
        nouns=("duck",),
        bill_words=("flat", "broad", "wide flat"),
        scenes=(
            *at(shore.DUCK_SWIMMING, "water", "water", "water", "water"),
            *at(shore.DUCK_STANDING, "grass", "meadow", "beach", "snow", "ice"),
            *at(flying.DUCK_FLYING, "sky"),
        ),
        natural={"back": "grey", "crown": "green", "face": "green", "breast": "brown", "bill": "yellow"},
        names={"mallard": {"crown": "green", "face": "green", "breast": "brown"}},
        families=("waterbird",),
        crest_chance=0.1,
    ),
    "swan": Kind(
        nouns=("swan",),
        bill_words=("flat", "broad"),
        scenes=at(shore.SWAN, "water"),
        natural={"back": "white", "bill": "orange"},
        families=("waterbird",),
        crest_chance=0.0,
    ),
    "gull": Kind(
        nouns=("gull", "seagull"),
        bill_words=("hooked", "strong", "short hooked"),
        scenes=(
            *at(flying.GULL_FLYING, "sky", "sky"),
            *at(shore.GULL_STANDING, "rock", "beach", "beach", "ice", "fence"),
            *at(shore.GULL_SWIMMING, "water"),
        ),
        natural={"back": "white", "tail": "black", "bill": "yellow", "legs": "pink"},
        families=("waterbird", "seabird"),
        crest_chance=0.0,
        pale_eye=True,
    ),
    "penguin": Kind(
        nouns=("penguin",),
        bill_words=("pointed", "short pointed", "thin"),
        scenes=at(ground.PENGUIN, "ice", "ice", "ice", "snow", "beach", "rock"),
        natural={"back": "black", "breast": "white", "belly": "white", "bill": "orange", "legs": "orange"},
        families=("waterbird", "seabird"),
        crest_chance=0.1,
        speckled=0.0,
    ),
    "heron": Kind(
        nouns=("heron", "heron", "egret", "stork", "crane"),
        bill_words=("long pointed", "long", "long sharp"),
        scenes=at(shore.HERON, "water", "water", "water", "grass", "beach", "snow"),
        natural={"back": "grey", "face": "white", "breast": "white", "bill": "yellow"},
        families=("waterbird",),
        crest_chance=0.5,
        pale_eye=True,
        long_legs=True,
    ),
    "flamingo": Kind(
        nouns=("flamingo",),
        bill_words=("bent", "curved", "thick curved"),
        scenes=at(shore.FLAMINGO, "water", "water", "water", "beach", "grass"),
        natural={"back": "pink", "bill": "pink", "legs": "pink"},
        families=("waterbird",),
        crest_chance=0.0,
        long_legs=True,
    ),
    "ostrich": Kind(
        nouns=("ostrich",),
        bill_words=("flat", "broad", "short"),
        scenes=at(ground.OSTRICH, "grass", "grass", "beach", "meadow"),
        natural={"back": "black", "crown": "pink", "face": "pink", "breast": "pink", "tail": "white", "bill": "pink"},
        crest_chance=0.0,
        speckled=0.0,
        long_legs=True,
    ),
    "chicken": Kind(
        nouns=("chicken", "chicken", "hen", "rooster"),
        bill_words=("short", "small pointed", "short pointed"),
        scenes=at(ground.CHICKEN, "grass", "grass", "meadow", "fence", "snow", "beach"),
        natural={"back": "white", "bill": "yellow", "legs": "yellow"},
        crest_chance=0.0,
    ),
    "chick": Kind(
        nouns=("chick",),
        bill_words=("tiny", "short", "small pointed"),
        scenes=at(ground.CHICK, "grass", "grass", "meadow", "nest", "snow"),
        natural={"back": "yellow", "bill": "orange", "legs": "orange"},
        speckled=0.0,
    ),
    "pigeon": Kind(
        nouns=("pigeon", "dove"),
        bill_words=("short", "small", "thin"),
        scenes=at(ground.PIGEON, "rock", "fence", "grass", "beach", "snow", "meadow", "nest"),
        natural={"back": "grey", "breast": "purple", "bill": "grey", "legs": "red"},
        crest_chance=0.0,
    ),
    "peacock": Kind(
        nouns=("peacock",),
        bill_words=("short", "small pointed"),
        scenes=at(ground.PEACOCK, "grass", "grass", "meadow", "rock", "beach"),
        natural={"back": "green", "crown": "blue", "face": "blue", "breast": "blue", "belly": "blue", "tail": "green"},
        crest_chance=1.0,
        speckled=0.0,
    ),
}
