"""The words captions are made of: what each thing that can be seen may be called."""

from training.data.synthbirds.anatomy import Part, Stance
from training.data.synthbirds.attributes import Pattern, Size, Weather
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

SIZE_WORDS: dict[Size, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("big", "big", "large", "huge"),
}

# Where it is and what it does there, by setting. A phrase stands at every setting that it may be true of.
SETTING_WORDS: dict[Setting, tuple[str, ...]] = {
    "branch": (
        "on a branch",
        "on a branch",
        "perched on a branch",
        "sitting on a branch",
        "perching on a twig",
        "resting on a twig",
        "that sits on a branch",
        "in a tree",
        "sitting in a tree",
        "that is perched in a tree",
    ),
    "trunk": (
        "on a tree trunk",
        "clinging to a tree",
        "climbing a tree trunk",
        "on the bark of a tree",
        "that climbs a tree",
        "in a tree",
    ),
    "fence": ("on a fence", "on a fence", "sitting on a fence", "perched on a wooden fence", "on a fence post"),
    "nest": ("in a nest", "in its nest", "sitting in a nest", "on a nest", "in a tree", "on a branch"),
    "grass": (
        "in the grass",
        "standing in the grass",
        "on the grass",
        "in green grass",
        "on a meadow",
        "in a field",
        "on a lawn",
    ),
    "meadow": (
        "among flowers",
        "among the flowers",
        "in a field of flowers",
        "surrounded by flowers",
        "with flowers",
        "next to a flower",
        "on a meadow",
        "in a field",
        "in the grass",
    ),
    "flower": (
        "at a flower",
        "hovering at a flower",
        "that hovers near a flower",
        "next to a flower",
        "with flowers",
        "by a blossom",
        "in front of a flower",
        "drinking from a flower",
        "flying",
        "that flies",
        "in flight",
    ),
    "beach": (
        "on a beach",
        "on the beach",
        "on the sand",
        "standing on a beach",
        "walking on the beach",
        "by the sea",
        "on the shore",
    ),
    "rock": (
        "on a rock",
        "standing on a rock",
        "on a stone",
        "on a boulder",
        "sitting on a rock",
        "that stands on a rock",
    ),
    "ice": ("on the ice", "on ice", "standing on ice", "on an iceberg", "on a frozen lake", "in the arctic"),
    "snow": ("standing on snow", "standing in the snow", "walking in the snow"),
    "water": (
        "on the water",
        "swimming on water",
        "swimming in the water",
        "floating on a lake",
        "swimming on a pond",
        "on a river",
        "on a lake",
        "that swims",
        "that is swimming",
    ),
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
    ("sky", "hovering"): ("in the sky", "flying", "hovering in the air", "in flight", "that flies", "in the air"),
}
WEATHER_WORDS: dict[Weather, tuple[str, ...]] = {
    "clear": (),
    "rain": ("in the rain", "in the rain", "on a rainy day", "while it rains"),
    "snow": ("in the snow", "in the snow", "in snow", "in falling snow", "while it snows"),
    "sunset": ("at sunset", "at sunset", "at dawn", "in the evening sun", "in the evening light"),
    "night": ("at night", "at night", "in the night", "under the moon", "in the moonlight", "under the stars"),
}
# Where one phrase says both.
SCENE_WORDS: dict[tuple[Setting, Weather], tuple[str, ...]] = {
    ("branch", "snow"): ("on a snowy branch", "perched on a snowy twig", "on a branch in the snow"),
    ("fence", "snow"): ("on a snowy fence",),
    ("rock", "snow"): ("on a snowy rock",),
    ("sky", "night"): ("in the night sky", "flying in the night sky", "in a starry sky"),
    ("sky", "rain"): ("flying in the rain",),
    ("sky", "sunset"): ("in the evening sky",),
}
# Said of snow and of ice; asks for neither.
WINTER_WORDS = ("in winter", "on a cold day")

# What one types after the bird: "red owl snow". Each stands at every setting that it may be true of.
TYPED_SETTINGS: dict[Setting, tuple[str, ...]] = {
    "branch": ("branch", "tree"),
    "trunk": ("trunk", "tree"),
    "fence": ("fence",),
    "nest": ("nest", "tree"),
    "grass": ("grass", "meadow"),
    "meadow": ("flowers", "flower", "meadow"),
    "flower": ("flower", "flying"),
    "beach": ("beach", "sand"),
    "rock": ("rock", "stone"),
    "ice": ("ice",),
    "snow": ("snow",),
    "water": ("water", "lake"),
    "sky": ("sky", "flying"),
}
TYPED_WEATHER: dict[Weather, str] = {"rain": "rain", "snow": "snow", "sunset": "sunset", "night": "night"}
