"""A round that asks people for four regions of two images."""

from halo_ray.data.classes import ClassSet

ROUND, RADIUS = 3, 1
CLASSES = ClassSet("test", ("road", "sky", "Traffic sign"), ids=(10, 20, 30), ignore_ids=(0,))
SIZES = {"a/1": (40, 60), "b": (30, 50)}
PLACES = {"a/1": [(10, 20), (0, 59), (11, 22)], "b": [(15, 15)]}
"""Of one image a region is cut off by the corner, and another one overlaps the first."""

PIXELS = {"a/1": [9, 4, 7], "b": [8]}
"""Of each region: what an earlier one has, or was known before, is not asked."""

WHY = {"score": 0.5, "radius": 1.5, "entropy": 0.25, "guess": 2, "probability": 0.75}
