"""The near part of a picture: where its bird touches it, in what light it lies, and how one draws there."""

from dataclasses import dataclass
from random import Random

from training.data.synthbirds.attributes import Weather
from training.data.synthbirds.colours import Rgb, blend
from training.data.synthbirds.geometry import Array, Points, closed_curve
from training.data.synthbirds.kinds import Setting

SNOW: Rgb = (244, 248, 253)
LEAVES: tuple[Rgb, ...] = ((92, 130, 62), (120, 150, 70), (76, 116, 74), (150, 158, 82))
_LIGHT_OF: dict[Weather, tuple[Rgb, float]] = {
    "night": ((26, 34, 78), 0.55),
    "sunset": ((214, 104, 60), 0.22),
    "rain": ((84, 96, 108), 0.28),
}


@dataclass(frozen=True)
class Place:
    """Where the bird touches its setting, in units: `feet` (N, 2), its bill, the way it faces (1 right, -1 left)."""

    feet: Array
    bill_tip: tuple[float, float]
    ahead: float
    waterline: float | None
    scale: float

    @property
    def nest_rim(self) -> float:
        """The height of a nest's rim, which hides what is below."""
        return float(self.feet[:, 1].mean()) - 5.5 * self.scale


class Site:
    """The near part of one picture, on a canvas of `side` x `side` pixels."""

    def __init__(
        self, setting: Setting, weather: Weather, side: int, place: Place, wash: tuple[Rgb, Rgb, Rgb], rng: Random
    ) -> None:
        self.setting = setting
        self.weather = weather
        self.side = side
        self.scale = side / 100
        self.place = place
        self.wash = wash
        self.rng = rng

    def lit(self, colour: Rgb) -> Rgb:
        """A colour in the light of the weather."""
        light, share = _LIGHT_OF.get(self.weather, ((0, 0, 0), 0.0))
        return blend(colour, light, share)

    def flat(self, points: Array) -> list[float]:
        """Points (units) as the flat list of pixel coordinates that Pillow takes."""
        flat: list[float] = (points * self.scale).ravel().tolist()
        return flat

    def curve(self, points: Points) -> list[float]:
        """A smooth closed curve through points (units), as `flat`."""
        return self.flat(closed_curve(points))

    def between(self, low: float, high: float) -> float:
        """A uniformly drawn number."""
        return low + (high - low) * self.rng.random()


def toned(colour: Rgb, tone: float) -> Rgb:
    """Darker for a negative tone, lighter for a positive one."""
    return blend(colour, (18, 16, 24), -tone) if tone < 0 else blend(colour, (255, 250, 235), tone)
