"""RandAugment (arXiv 1909.13719) as Perceiver IO was trained with it.

Every layer draws one of 16 operations and applies it. At magnitude 5 of 10,
that of the released recipe, colour, contrast, brightness and sharpness have a
factor of 1 and change nothing. Signs of the geometric operations are drawn,
what comes in from outside is grey, and nothing is interpolated.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_GREY = 128
_MAX = 10


def randaugment(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  num_layers: int = 4,
  magnitude: float = 5,
) -> np.ndarray:
  """Changes an image.

  Args:
    image: uint8[H, W, 3].
    rng: numpy generator.
    num_layers: operations, one after the other.
    magnitude: in [0, 10].

  Returns:
    uint8[H, W, 3].

  Raises:
    ValueError: a magnitude outside [0, 10].
  """
  if not 0 <= magnitude <= _MAX:
    raise ValueError(f'magnitude={magnitude}: want 0 to {_MAX}')
  picture = Image.fromarray(image)
  for _ in range(num_layers):
    name = NAMES[rng.integers(len(NAMES))]
    picture = OPERATIONS[name](picture, magnitude / _MAX, rng)
  return np.asarray(picture)


def _sign(rng):
  return 1 if rng.random() < 0.5 else -1


def _enhance(kind):
  def apply(image, level, rng):
    del rng
    return kind(image).enhance(0.1 + 1.8 * level)

  return apply


def _affine(coefficients):
  """coefficients(level, rng): of PIL, from output to input pixels."""

  def apply(image, level, rng):
    return image.transform(
      image.size,
      Image.Transform.AFFINE,
      coefficients(level, rng),
      Image.Resampling.NEAREST,
      fillcolor=(_GREY,) * 3,
    )

  return apply


def _rotate(image, level, rng):
  return image.rotate(
    30 * level * _sign(rng),
    Image.Resampling.NEAREST,
    fillcolor=(_GREY,) * 3,
  )


def _posterize(image, level, rng):
  del rng
  # No bits at all would be black, which Pillow refuses.
  return ImageOps.posterize(image, max(int(4 * level), 1))


def _solarize_add(image, level, rng):
  del rng
  added = int(110 * level)
  return image.point(
    [min(v + added, 255) if v < 128 else v for v in range(256)] * 3
  )


def _cutout(image, level, rng):
  """A square around any pixel, cut off at the border."""
  half = int(40 * level)
  pixels = np.array(image)
  y, x = (int(rng.integers(n)) for n in pixels.shape[:2])
  rows = slice(max(y - half, 0), y + half)
  pixels[rows, max(x - half, 0) : x + half] = _GREY
  return Image.fromarray(pixels)


OPERATIONS = {
  'autocontrast': lambda image, level, rng: ImageOps.autocontrast(image),
  'equalize': lambda image, level, rng: ImageOps.equalize(image),
  'invert': lambda image, level, rng: ImageOps.invert(image),
  'rotate': _rotate,
  'posterize': _posterize,
  'solarize': lambda image, level, rng: ImageOps.solarize(
    image, math.floor(256 * level)
  ),
  'color': _enhance(ImageEnhance.Color),
  'contrast': _enhance(ImageEnhance.Contrast),
  'brightness': _enhance(ImageEnhance.Brightness),
  'sharpness': _enhance(ImageEnhance.Sharpness),
  'shear_x': _affine(lambda m, rng: (1, 0.3 * m * _sign(rng), 0, 0, 1, 0)),
  'shear_y': _affine(lambda m, rng: (1, 0, 0, 0.3 * m * _sign(rng), 1, 0)),
  'translate_x': _affine(lambda m, rng: (1, 0, 100 * m * _sign(rng), 0, 1, 0)),
  'translate_y': _affine(lambda m, rng: (1, 0, 0, 0, 1, 100 * m * _sign(rng))),
  'cutout': _cutout,
  'solarize_add': _solarize_add,
}
NAMES = tuple(OPERATIONS)
