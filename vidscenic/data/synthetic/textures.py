"""Periodic colour textures and the bank that serves them.

Four families in turn: lattice noise summed over octaves, dead leaves (opaque
ellipses and rectangles that occlude one another), shaded Voronoi cells and a
warped plaid. A folder of the user's own photographs can replace them.

Lookups are bilinear in the level of a 2x2-mean pyramid that has about one
texel per pixel. Texture coordinates are in periods; the centre of texel i of
n lies at (i + 0.5) / n.
"""

import functools
import math
import pathlib
import threading

import numpy as np

SIZE = 256  # texels along each side
COUNT = 40  # textures made by rule

_LEVELS = 6  # 256, 128, ..., 8
_SIDES = np.array([SIZE >> i for i in range(_LEVELS)], np.int32)
_STARTS = (np.cumsum(_SIDES**2) - _SIDES**2).astype(np.int32)
_ROWS = int((_SIDES**2).sum())  # texels of all levels of one texture
_CHROMA = 0.55  # how far colours stay from grey
_PHOTO_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@functools.lru_cache(maxsize=8)
def bank(seed: int = 0, folder: str = '') -> 'TextureBank':
  """The bank of this process for a seed or a folder; made once."""
  return TextureBank(seed, folder)


class TextureBank:
  """Textures as mip-mapped float32 tables, filled when first needed.

  Safe to use from several threads; pickles as its arguments alone.
  """

  def __init__(self, seed: int = 0, folder: str = ''):
    """Prepares an empty bank.

    Args:
      seed: of the generated textures.
      folder: if not empty, its photographs are used instead, in the order of
        their names. Needs Pillow.

    Raises:
      ValueError: the folder holds no photograph.
    """
    self._seed = seed
    self._folder = folder
    self._photos = _list_photos(folder) if folder else ()
    self.count = len(self._photos) or COUNT
    self._lock = threading.Lock()
    self._ready = [False] * self.count
    # Planes, not pixels: numpy multiplies long rows much faster than triples.
    # Untouched pages of `empty` cost no memory.
    self._planes = np.empty((3, self.count * _ROWS), np.float32)

  def __reduce__(self):
    return bank, (self._seed, self._folder)

  def require(self, indices) -> None:
    """Makes the textures that are not there yet."""
    for index in indices:
      if not self._ready[index]:
        with self._lock:
          if not self._ready[index]:
            self._fill(index)
            self._ready[index] = True

  def texture(self, index: int) -> np.ndarray:
    """Texture `index` at full size: float32[256, 256, 3] in [0, 1]."""
    self.require([index])
    start = index * _ROWS
    plane = self._planes[:, start : start + SIZE * SIZE]
    return plane.reshape(3, SIZE, SIZE).transpose(1, 2, 0)

  def sample(self, index, u, v, footprint) -> list[np.ndarray]:
    """Looks up colours.

    Args:
      index: texture numbers that broadcast against u; already required.
      u, v: float32, horizontal and vertical coordinates in periods.
      footprint: float32, periods per pixel.

    Returns:
      Red, green and blue in [0, 1], float32 of u's shape.
    """
    # The exponent of a float32 is its rounded-down base-2 logarithm.
    bits = (footprint * np.float32(SIZE * math.sqrt(2))).view(np.int32)
    level = np.minimum(np.maximum((bits >> 23) - 127, 0), _LEVELS - 1)
    start = _STARTS.take(level) + index * np.int32(_ROWS)
    side = _SIDES.take(level)
    length = side.astype(np.float32)  # an int32 would give float64 products
    x, y = u * length - 0.5, v * length - 0.5
    left, top = np.floor(x), np.floor(y)
    x, y = x - left, y - top
    left, top = left.astype(np.int32), top.astype(np.int32)
    mask = side - 1
    right, bottom = (left + 1) & mask, start + ((top + 1) & mask) * side
    left, top = left & mask, start + (top & mask) * side
    corners = [
      (np.add(a, b, dtype=np.intp))
      for a in (top, bottom)
      for b in (left, right)
    ]
    colours = []
    for plane in self._planes:
      a, b, c, d = (plane.take(corner) for corner in corners)
      a += x * (b - a)
      c += x * (d - c)
      a += y * (c - a)
      colours.append(a)
    return colours

  def _fill(self, index):
    if self._photos:
      texture = _load_photo(self._photos[index])
    else:
      texture = make_texture(self._seed, index)
    level = texture.transpose(2, 0, 1)
    for start, side in zip(_STARTS + index * _ROWS, _SIDES, strict=True):
      self._planes[:, start : start + side * side] = level.reshape(3, -1)
      level = 0.25 * (
        level[:, ::2, ::2]
        + level[:, 1::2, ::2]
        + level[:, ::2, 1::2]
        + level[:, 1::2, 1::2]
      )


def make_texture(seed: int, index: int) -> np.ndarray:
  """Texture `index` of a seed: float32[256, 256, 3] in [0, 1], periodic."""
  rng = np.random.default_rng([7919, seed, index])
  families = (_lattice_noise, _dead_leaves, _voronoi, _plaid)
  texture = families[index % len(families)](rng)
  low, high = np.min(texture), np.max(texture)
  texture = (texture - low) / (high - low)
  grey = texture.mean(-1, keepdims=True)
  return (grey + _CHROMA * (texture - grey)).astype(np.float32)


def _lattice_noise(rng):
  gain = 0.5 + 0.4 * rng.random()
  total = np.zeros((SIZE, SIZE, 3))
  for octave in range(1, 8):
    total += gain**octave * _smooth_lattice(rng.random((2**octave,) * 2 + (3,)))
  return total


def _smooth_lattice(values):
  """Values on a periodic n x n lattice, interpolated to the full size."""
  count = len(values)
  position = np.arange(SIZE) * (count / SIZE)
  low = position.astype(np.int64)
  weight = position - low
  weight = (weight * weight * (3 - 2 * weight))[:, None, None]
  for _ in range(2):  # rows, then columns
    after = values[(low + 1) % count]
    values = values[low] + weight * (after - values[low])
    values = values.swapaxes(0, 1)
  return values


def _dead_leaves(rng, count=140):
  image = np.empty((SIZE, SIZE, 3))
  image[:] = rng.random(3)
  for i in range(count):
    radius = SIZE * 0.3 * (0.012 / 0.3) ** (i / (count - 1))
    centre = SIZE * rng.random(2)
    aspect = 0.4 + 0.6 * rng.random()
    angle = math.pi * rng.random()
    round_leaf = rng.random() < 0.5
    colour, slope = rng.random(3), 0.5 * (rng.random(2) - 0.5)
    reach = math.ceil(radius * (1 if round_leaf else math.sqrt(2))) + 1
    window = np.arange(-reach, reach + 1)
    rows, columns = (
      (int(c) + window) % SIZE for c in centre
    )  # a leaf may cross the border
    y, x = np.meshgrid(window, window, indexing='ij')
    a = (x * math.cos(angle) + y * math.sin(angle)) / radius
    b = (y * math.cos(angle) - x * math.sin(angle)) / (radius * aspect)
    edge = np.hypot(a, b) if round_leaf else np.maximum(np.abs(a), np.abs(b))
    cover = np.clip(0.5 + (1 - edge) * radius * aspect, 0, 1)[..., None]
    shaded = colour * (1 + slope[0] * a + slope[1] * b)[..., None]
    patch = np.ix_(rows, columns)
    image[patch] += cover * (np.clip(shaded, 0, 1) - image[patch])
  return image


def _voronoi(rng, count=40):
  grid = (np.arange(SIZE) + 0.5) / SIZE
  nearest = np.full((SIZE, SIZE), np.inf)
  second = nearest.copy()
  cell = np.zeros((SIZE, SIZE), np.int64)
  for i, (y, x) in enumerate(rng.random((count, 2))):
    dx, dy = np.abs(grid - x), np.abs(grid - y)
    dx, dy = np.minimum(dx, 1 - dx), np.minimum(dy, 1 - dy)
    distance = np.sqrt(dx**2 + dy[:, None] ** 2)
    closer = distance < nearest
    second = np.where(closer, nearest, np.minimum(second, distance))
    nearest = np.where(closer, distance, nearest)
    cell[closer] = i
  bump = 1 - nearest / nearest.max()
  border = np.minimum((second - nearest) / 0.02, 1)
  shade = (0.45 + 0.55 * bump) * (0.4 + 0.6 * border)
  return rng.random((count, 3))[cell] * shade[..., None]


def _plaid(rng):
  turn = 2 * math.pi * np.arange(SIZE) / SIZE
  y, x = np.meshgrid(turn, turn, indexing='ij')
  bend = [0.15 + 0.35 * rng.random() for _ in range(2)]
  phase = 2 * math.pi * rng.random(4)
  wx = x + bend[0] * np.sin(2 * y + phase[0]) + 0.1 * np.sin(5 * x + phase[1])
  wy = y + bend[1] * np.sin(2 * x + phase[2]) + 0.1 * np.sin(5 * y + phase[3])
  image = np.zeros((SIZE, SIZE, 3))
  for scale in (3, 7, 16, 31):
    for along in (wx, wy):
      frequency = scale + int(scale * rng.random())
      wave = np.sin(frequency * along + 2 * math.pi * rng.random())
      # Steep waves make stripes with visible edges.
      stripe = np.clip(2.5 * wave, -1, 1) / math.sqrt(scale)
      image += stripe[..., None] * (rng.random(3) - 0.3)
  return image


def _list_photos(folder):
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise ValueError(f'textures={folder!r} is not a folder')
  photos = sorted(
    p for p in root.iterdir() if p.suffix.lower() in _PHOTO_SUFFIXES
  )
  if not photos:
    raise ValueError(
      f'textures={folder!r} holds no photograph; expected files ending in '
      f'{", ".join(_PHOTO_SUFFIXES)}'
    )
  return tuple(photos)


def _load_photo(path):
  """The middle square of a photograph, mirrored so that it is periodic."""
  from PIL import Image  # only this option needs Pillow

  with Image.open(path) as image:
    image = image.convert('RGB')
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((SIZE // 2, SIZE // 2), Image.Resampling.LANCZOS)
  tile = np.asarray(image, np.float32) / 255
  tile = np.concatenate([tile, tile[::-1]], axis=0)
  return np.concatenate([tile, tile[:, ::-1]], axis=1)
