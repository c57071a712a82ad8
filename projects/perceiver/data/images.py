"""Images as Perceiver IO (arXiv 2107.14795) was trained and tested on them.

Training: an Inception crop, a mirror image half of the time, RandAugment at the
crop's own size, then a resize. Testing: a centre crop whose side is 7/8 of the
short side, then a resize. Both resizes are bicubic, here Pillow's with
antialiasing, rounded to bytes; the released training code has TensorFlow's
without antialiasing, unrounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from projects.perceiver.data import randaugment
from vidscenic.data import records, resize, windows


class ImageTransform:
  """Records with one picture to examples; for `data.transform`.

  Examples: video uint8[1, H, W, 3] and label int32[].

  Args:
    size: (H, W) of the examples.
    train: random crop, mirror and RandAugment.
    area, aspect: ranges of the crop in training.
    flip: probability of a mirror image in training.
    num_layers, magnitude: of RandAugment; 0 layers: none.
    resize_method: one of `resize.METHODS`.
    label: field of the record that becomes the label.
  """

  def __init__(
    self,
    size: Sequence[int] = (224, 224),
    train: bool = True,
    area: Sequence[float] = (0.08, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    num_layers: int = 4,
    magnitude: float = 5,
    resize_method: str = 'bicubic',
    label: str = 'label',
  ):
    if len(size) != 2 or min(size) < 1:
      raise ValueError(f'size={size}: want (height, width)')
    if resize_method not in resize.METHODS:
      raise ValueError(
        f'resize_method={resize_method!r}: want one of {resize.METHODS}'
      )
    self._size, self._train = tuple(size), train
    self._area, self._aspect, self._flip = tuple(area), tuple(aspect), flip
    self._randaugment = dict(num_layers=num_layers, magnitude=magnitude)
    self._method = resize_method
    self._label = label

  def sample(
    self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Decodes the picture.

    Raises:
      VideoError: it cannot be read.
      ValueError: the record has no such label.
    """
    del rng
    if self._label not in record:
      raise ValueError(
        f'transform_kwargs.label={self._label!r}: the data give '
        f'{sorted(record)}'
      )
    frames = records.open_video(record).read(np.zeros(1, int))
    return {'video': frames, 'label': np.int32(record[self._label])}

  def augment(
    self, clip: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Crops, changes and resizes the picture."""
    image = clip['video'][0]
    top, left, height, width = self._box(image.shape[:2], rng)
    image = image[top : top + height, left : left + width]
    if self._train:
      if rng.random() < self._flip:
        image = image[:, ::-1]
      image = randaugment.randaugment(
        np.ascontiguousarray(image), rng, **self._randaugment
      )
    video = resize.resize_frames(image[None], self._size, method=self._method)
    return {**clip, 'video': video}

  def _box(self, size, rng):
    if self._train:
      window = windows.random_resized(
        rng, size, self._size, area=self._area, aspect=self._aspect
      )
      if window.box != (0, 0, *size):
        return window.box
    return center_box(size)


def center_box(size: Sequence[int]) -> tuple[int, int, int, int]:
  """(top, left, side, side) of the test crop of an image (height, width)."""
  side = max(int(224 / 256 * min(size)), 1)
  return (size[0] - side + 1) // 2, (size[1] - side + 1) // 2, side, side
