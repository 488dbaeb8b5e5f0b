"""From a key to a picture: design, pose, paint, setting; drawn larger and reduced."""

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from training.data.synthbirds.anatomy import Silhouette, beating
from training.data.synthbirds.attributes import (
    SMALL,
    Attributes,
    colour_bird,
    draw_weather,
    main_colour,
    mark_bird,
    pick,
)
from training.data.synthbirds.kinds import KINDS
from training.data.synthbirds.layers import Layers
from training.data.synthbirds.partmap import part_areas
from training.data.synthbirds.plumage import BirdPainter
from training.data.synthbirds.pose import Pose, draw_pose, outline
from training.data.synthbirds.scenery import Scenery
from training.data.synthbirds.site import Place, Site
from training.data.synthbirds.supports import draw_before, draw_behind

_LIGHT = ("white", "yellow", "pink", "orange")


@dataclass(frozen=True)
class Design:
    """A picture before it is painted: the bird's silhouette in its pose, and everything that is to be seen."""

    silhouette: Silhouette
    pose: Pose
    attributes: Attributes


def design(key: str) -> Design:
    """Decides what the picture of this key shows. The key is the seed: nothing else enters."""
    rng = Random(f"{key}/design")
    name = pick(tuple(KINDS), rng)
    kind = KINDS[name]
    setting, silhouette = pick(kind.scenes, rng)
    if silhouette.stance in ("flying", "hovering"):
        silhouette = beating(silhouette, pick((1.0, 1.0, 0.85, 0.7), rng))
    faces_left = rng.random() < 0.5
    crest = rng.random() < kind.crest_chance
    weather = draw_weather(setting, rng)
    small = rng.random() < SMALL
    pose = draw_pose(silhouette, faces_left, crest, small, rng)
    place = _place(silhouette, pose)
    areas = part_areas(silhouette, pose, crest, place.nest_rim if setting == "nest" else place.waterline)
    colours = colour_bird(kind, areas, rng)
    bars, ring, pattern = mark_bird(colours, areas, kind.speckled, rng)
    attributes = Attributes(
        kind=name,
        stance=silhouette.stance,
        setting=setting,
        weather=weather,
        size="small" if small else "large",
        facing="left" if faces_left else "right",
        colours=colours,
        areas=areas,
        main_colour=main_colour(colours, areas),
        wing_bars=bars,
        eye_ring=ring,
        crest=crest,
        pattern=pattern,
    )
    return Design(silhouette, pose, attributes)


def draw(plan: Design, key: str, side: int) -> NDArray[np.uint8]:
    """Draws what was designed for this key; uint8 (R, R, 3) with R = `side`."""
    bird, pose, seen = plan.silhouette, plan.pose, plan.attributes
    factor = 3 if side >= 64 else 6
    large = side * factor
    layers = _layers(plan, large)
    painted = BirdPainter(layers, bird, pose, seen, Random(f"{key}/bird")).paint(KINDS[seen.kind].pale_eye)
    rng, place = Random(f"{key}/scenery"), _place(bird, pose)
    scenery = Scenery(seen.setting, seen.weather, large, seen.main_colour in _LIGHT, place.ahead, rng)
    canvas = scenery.background()
    at = (round(layers.corner[0] * layers.scale), round(layers.corner[1] * layers.scale))
    site = Site(seen.setting, seen.weather, large, place, scenery.wash, rng)
    draw_behind(site, canvas)
    canvas.paste(painted, at, layers.cover)
    draw_before(site, canvas)
    return np.asarray(canvas.reduce(factor))


def _layers(plan: Design, side: int) -> Layers:
    """Layers around the bird, in whole multiples of 6 pixels, which reduce well."""
    points = plan.pose.place(outline(plan.silhouette, plan.attributes.crest)) * (side / 100)
    rim = 0.06 * side
    low = np.maximum((points.min(axis=0) - rim) // 6 * 6, 0).astype(int)
    high = np.minimum(-(-(points.max(axis=0) + rim) // 6) * 6, side).astype(int)
    return Layers(low / (side / 100), (int(high[0] - low[0]), int(high[1] - low[1])), side / 100)


def _place(bird: Silhouette, pose: Pose) -> Place:
    feet = pose.place(np.array([leg[-1] for leg in bird.legs])) if bird.legs else np.zeros((0, 2))
    tip = pose.place((bird.bill.upper[2],))[0]
    line = float(pose.place(((50.0, bird.waterline),))[0, 1]) if bird.waterline < 100 else None
    return Place(feet, (float(tip[0]), float(tip[1])), float(np.sign(pose.matrix[0])), line, pose.scale)
