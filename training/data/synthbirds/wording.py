"""The words captions are made of: what each thing that can be seen may be called."""

from training.data.synthbirds.anatomy import Stance
from training.data.synthbirds.attributes import Part, Pattern
from training.data.synthbirds.colours import Colour
from training.data.synthbirds.kinds import Setting

COLOUR_WORDS: dict[Colour, tuple[str, ...]] = {
    "black": ("black", "black", "black", "jet black"),
    "white": ("white",),
    "grey": ("grey", "gray"),
    "brown": ("brown",),
    "red": ("red", "red", "bright red"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "bright yellow"),
    "green": ("green",),
    "blue": ("blue", "blue", "bright blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
}

PART_WORDS: dict[Part, tuple[str, ...]] = {
    "crown": ("crown", "crown", "cap"),
    "face": ("throat", "cheeks"),
    "back": ("back",),
    "wings": ("wings",),
    "breast": ("breast", "chest"),
    "belly": ("belly", "belly", "abdomen", "stomach"),
    "tail": ("tail", "tail feathers", "tail"),
    "bill": ("bill", "beak"),
    "legs": ("legs", "feet"),
}

HEAD_WORDS = ("head",)  # crown and face alike
UNDERSIDE_WORDS = ("underparts",)  # breast and belly alike

# Words that take no article: "a yellow belly", but "yellow wings".
PLURAL = frozenset({"cheeks", "wings", "underparts", "tail feathers", "legs", "feet"})

PATTERN_WORDS: dict[Pattern, tuple[str, ...]] = {
    "plain": (),
    "streaked": ("streaked", "striped"),
    "spotted": ("spotted", "speckled"),
}

SMALL_WORDS = ("small", "small", "little", "tiny")
LARGE_WORDS = ("large", "large", "big")

# Where it is and what it does there, by setting.
SETTING_WORDS: dict[Setting, tuple[str, ...]] = {
    "branch": ("on a branch", "perched on a branch", "sitting on a branch", "sitting in a tree"),
    "trunk": ("on a tree trunk", "clinging to a tree", "climbing a tree trunk"),
    "grass": ("in the grass", "standing in the grass", "in green grass"),
    "water": ("on the water", "swimming on water", "swimming in the water", "floating on a lake"),
    "snow": ("in the snow", "in winter", "in the snow"),
    "sky": ("in the sky", "flying in the sky", "flying", "in flight", "with spread wings"),
    "rock": ("on a rock", "standing on a rock", "perched on a stone"),
    "flower": ("at a flower", "hovering at a flower", "next to a flower"),
}
# Where the stance says more than the setting does.
STANCE_WORDS: dict[tuple[Setting, Stance], tuple[str, ...]] = {
    ("water", "standing"): ("in the water", "standing in water", "wading in the water", "standing in a lake"),
    ("snow", "perched"): ("in the snow", "on a snowy branch", "on a branch in winter"),
}
