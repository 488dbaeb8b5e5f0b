"""The words captions are made of: what each thing that can be seen may be called."""

from training.data.synthbirds.anatomy import Stance
from training.data.synthbirds.attributes import Part, Pattern
from training.data.synthbirds.colours import Colour
from training.data.synthbirds.kinds import Setting

COLOUR_WORDS: dict[Colour, tuple[str, ...]] = {
    "black": ("black", "black", "black", "jet black"),
    "white": ("white", "white", "white", "white", "pure white"),
    "grey": ("grey", "gray"),
    "brown": ("brown", "brown", "brown", "brown", "chestnut"),
    "red": ("red", "red", "red", "bright red", "scarlet", "crimson"),
    "orange": ("orange", "orange", "orange", "bright orange"),
    "yellow": ("yellow", "yellow", "yellow", "bright yellow", "golden"),
    "green": ("green", "green", "green", "green", "bright green", "emerald"),
    "blue": ("blue", "blue", "blue", "bright blue"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "bright pink"),
}

PART_WORDS: dict[Part, tuple[str, ...]] = {
    "crown": ("crown", "crown", "cap", "forehead"),
    "face": ("throat", "cheeks"),
    "back": ("back",),
    "wings": ("wings", "wings", "wings", "wing feathers"),
    "breast": ("breast", "chest"),
    "belly": ("belly", "belly", "abdomen", "stomach"),
    "tail": ("tail", "tail", "tail feathers"),
    "bill": ("bill", "beak"),
    "legs": ("legs", "feet"),
}

HEAD_WORDS = ("head",)  # crown and face alike
UNDERSIDE_WORDS = ("underparts",)  # breast and belly alike

# Words that take no article: "a yellow belly", but "yellow wings".
PLURAL = frozenset({"cheeks", "wings", "underparts", "tail feathers", "wing feathers", "legs", "feet"})

PATTERN_WORDS: dict[Pattern, tuple[str, ...]] = {
    "plain": (),
    "streaked": ("streaked", "striped"),
    "spotted": ("spotted", "speckled"),
}

# Words of praise, and those around a request: said of any bird, so that they mean nothing.
PRAISE_WORDS = ("beautiful", "pretty", "cute", "lovely", "nice")
REQUESTS = ("draw {}", "draw me {}", "show me {}", "i want {}", "{} please", "draw {} please", "show me {} please")

SMALL_WORDS = ("small", "small", "little", "tiny")
LARGE_WORDS = ("large", "large", "big")

# Where it is and what it does there, by setting.
SETTING_WORDS: dict[Setting, tuple[str, ...]] = {
    "branch": (
        "on a branch",
        "perched on a branch",
        "sitting on a branch",
        "sitting in a tree",
        "perching on a twig",
        "resting on a twig",
        "that sits on a branch",
        "that is perched in a tree",
        "in a tree",
    ),
    "trunk": (
        "on a tree trunk",
        "clinging to a tree",
        "climbing a tree trunk",
        "on the bark of a tree",
        "that climbs a tree",
    ),
    "grass": (
        "in the grass",
        "standing in the grass",
        "on the grass",
        "in green grass",
        "on a meadow",
        "in a field",
        "on a lawn",
    ),
    "water": (
        "on the water",
        "swimming on water",
        "swimming in the water",
        "floating on a lake",
        "swimming on a pond",
        "on a river",
        "on the sea",
        "that swims",
        "that is swimming",
    ),
    "snow": ("in the snow", "in the snow", "in snow", "in winter", "standing on snow"),
    "sky": (
        "in the sky",
        "flying in the sky",
        "flying",
        "in flight",
        "soaring in the sky",
        "with open wings",
        "that flies",
        "that is flying",
        "in the air",
        "among the clouds",
    ),
    "rock": (
        "on a rock",
        "standing on a rock",
        "on a stone",
        "on a boulder",
        "sitting on a rock",
        "that stands on a rock",
    ),
    "flower": (
        "at a flower",
        "hovering at a flower",
        "that hovers near a flower",
        "next to a flower",
        "by a blossom",
        "in front of a flower",
        "drinking from a flower",
    ),
}
# Where the stance says more than the setting does.
STANCE_WORDS: dict[tuple[Setting, Stance], tuple[str, ...]] = {
    ("water", "standing"): (
        "in the water",
        "standing in water",
        "wading in the water",
        "standing in a lake",
        "wading in a pond",
        "in shallow water",
    ),
    ("snow", "perched"): (
        "in the snow",
        "on a snowy branch",
        "on a branch in winter",
        "on a branch in the snow",
        "sitting in the snow",
        "perched on a snowy twig",
    ),
}


def plural(noun: str) -> str:
    """Several of them: "owls", "finches"."""
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"
