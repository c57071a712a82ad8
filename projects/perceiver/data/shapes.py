"""Plain shapes on plain ground: images to classify that need no files.

Shape, place, size, angle and both colours are drawn independently, so that
colours tell nothing about the class.
"""

import operator
from typing import Any

import numpy as np

CLASSES = ('disc', 'ring', 'square', 'triangle', 'cross', 'bar')

_SPLITS = ('train', 'validation')
_SIZES = {'train': 1_000_000, 'validation': 1024}
_CONTRAST = 96  # least difference of the two colours in one channel, of 255
_NOISE = 4  # standard deviation of every pixel, of 255
_FINE = 3  # points per pixel and axis that are averaged: soft edges


class SyntheticShapes:
  """One shape per image, drawn anew for every index.

  Records: video uint8[1, side, side, 3] and label int32, a place in CLASSES.

  Args:
    split: 'train' or 'validation'; other draws from the same distribution.
    side: of the images in pixels.
    seed: not negative.

  Raises:
    ValueError: an unknown split, or a side below 8.
  """

  def __init__(self, split: str = 'train', side: int = 36, seed: int = 0):
    if split not in _SPLITS:
      raise ValueError(f'split={split!r}: want one of {_SPLITS}')
    if side < 8:
      raise ValueError(f'side={side}: want 8 or more')
    self._seed, self._side = [seed, _SPLITS.index(split)], side
    self._size = _SIZES[split]

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Image `index`; IndexError outside [0, len)."""
    index = operator.index(index)
    if not 0 <= index < self._size:
      raise IndexError(f'index {index} outside [0, {self._size})')
    rng = np.random.default_rng([*self._seed, index])
    label = int(rng.integers(len(CLASSES)))
    covered = _coverage(CLASSES[label], self._side, rng)[..., None]
    ground = rng.uniform(0, 255, 3)
    shape = _other_colour(ground, rng)
    image = ground + covered * (shape - ground)
    image = image + _NOISE * rng.standard_normal(image.shape)
    video = np.clip(np.round(image), 0, 255).astype(np.uint8)[None]
    return {'video': video, 'label': np.int32(label)}


def _other_colour(colour, rng):
  """A colour that differs by _CONTRAST or more in some channel."""
  while True:
    other = rng.uniform(0, 255, 3)
    if np.abs(other - colour).max() >= _CONTRAST:
      return other


def _coverage(name, side, rng):
  """float64[side, side] in [0, 1]: how much of each pixel is in the shape."""
  radius = rng.uniform(0.26, 0.38)  # in sides
  x0, y0 = rng.uniform(0.42, 0.58, 2)
  angle = rng.uniform(0, 2 * np.pi)
  places = (np.arange(side * _FINE) + 0.5) / (side * _FINE)
  x, y = (places - x0) / radius, ((places - y0) / radius)[:, None]
  u = np.cos(angle) * x + np.sin(angle) * y
  v = np.cos(angle) * y - np.sin(angle) * x
  inside = _SHAPES[name](u, v).astype(np.float64)
  return inside.reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))


def _triangle(u, v):
  # Within the unit circle, one corner at the top.
  return (v <= 0.5) & (np.abs(u) * np.sqrt(3) <= v + 1)


# (u, v) in radii around the middle -> inside
_SHAPES = {
  'disc': lambda u, v: u * u + v * v <= 0.85**2,
  'ring': lambda u, v: np.abs(u * u + v * v - 0.65) <= 0.35,
  'square': lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.75,
  'triangle': _triangle,
  'cross': lambda u, v: (
    (np.minimum(np.abs(u), np.abs(v)) <= 0.28)
    & (np.maximum(np.abs(u), np.abs(v)) <= 1)
  ),
  'bar': lambda u, v: (np.abs(u) <= 1) & (np.abs(v) <= 0.3),
}
