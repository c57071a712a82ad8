"""Examples with point tracks from Kubric scenes: TAP-Vid-Kubric.

Tracks are made while reading (`kubric_tracks`), inside a random crop of the
clip (arXiv 2211.03726, 2306.08637). Unlike the published reader, tracks are in
pixels of the output whatever its size, and a vertical flip moves points from y
to H - y.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidscenic.data import augment, records, windows
from vidscenic.data.datasets import kubric, kubric_scene, kubric_tracks

_QUERIES = ('any', 'first')


class KubricTracks:
  """From the stored fields of a MOVi scene to an example with point tracks.

    source='vidscenic.data.datasets.kubric:scenes',
    transform='vidscenic.data.datasets.point_tracks:KubricTracks'

  Args:
    num_frames: consecutive frames of a clip, from a random one in training,
      else from the first; 0: all.
    size: (height, width) of the output; () keeps the scene's.
    num_tracks: N.
    train: cut a random box, one for all frames; else the whole picture.
    queries: in 'any' frame, or all in the 'first'.
    labels: some of `kubric.LABELS` to return as well, cut and resized too.
    max_boxes: see `kubric.labels`.
    area: range of the box's fraction of the picture.
    aspect: range of the box's width / height.
    snap_to_occluder: see `kubric_tracks.sample_tracks`.
    corner_aligned: resize as the older published reader did: up to half a pixel
      off, and black in the last row and column of an uncut picture. The newer
      one cuts, then resizes without antialiasing.
    vertical_flip: turn everything upside down, to test generalisation.
    keep: names of the fields to return, () = all.

  Raises:
    ValueError: names the argument that cannot be used.
  """

  def __init__(
    self,
    num_frames: int = 0,
    size: Sequence[int] = (256, 256),
    num_tracks: int = 256,
    train: bool = True,
    queries: str = 'any',
    labels: Sequence[str] = (),
    max_boxes: int = 25,
    area: tuple[float, float] = (0.3, 1.0),
    aspect: tuple[float, float] = (0.5, 2.0),
    snap_to_occluder: bool = False,
    corner_aligned: bool = False,
    vertical_flip: bool = False,
    keep: Sequence[str] = (),
  ):
    for name, value, least in (
      ('num_frames', num_frames, 0),
      ('num_tracks', num_tracks, 1),
    ):
      if value < least:
        raise ValueError(f'{name} must be >= {least}, got {value}')
    if len(size) not in (0, 2) or any(side < 1 for side in size):
      raise ValueError(f'size must be (height, width) or (), got {size}')
    if queries not in _QUERIES:
      raise ValueError(f'queries must be one of {_QUERIES}, got {queries!r}')
    for name, bounds in (('area', area), ('aspect', aspect)):
      if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f'{name} must be 0 < low <= high, got {bounds}')
    kubric.check_labels(labels)
    if vertical_flip and labels:
      raise ValueError(f'vertical_flip moves no labels, got {labels}')
    self._num_frames, self._num_tracks = num_frames, num_tracks
    self._size, self._train = tuple(size), train
    self._first = queries == 'first'
    self._labels, self._max_boxes = tuple(labels), max_boxes
    self._area, self._aspect = tuple(area), tuple(aspect)
    self._snap, self._corner_aligned = snap_to_occluder, corner_aligned
    self._vertical_flip = vertical_flip
    self._keep = tuple(keep)

  def sample(
    self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Chooses frames and decodes what belongs to them.

    Args:
      record: stored fields, see `kubric.scenes`.
      rng: numpy generator.

    Returns:
      A clip for `augment`.

    Raises:
      decode.VideoError: a picture is damaged.
      ValueError: a field is missing or has another size, or the scene is too
        short; names the scene.
    """
    scene = kubric_scene.Scene(record)
    length = self._num_frames or scene.num_frames
    free = scene.num_frames - length
    if free < 0:
      raise ValueError(
        f'num_frames={length}, but {scene.name} has {scene.num_frames}'
      )
    start = int(rng.integers(free + 1)) if self._train else 0
    frames = range(start, start + length)
    labels = kubric.labels(
      record, self._labels, frames, max_boxes=self._max_boxes
    )
    return {
      # The flow of the last frame leads out of the clip.
      **records.take_labels(labels, np.arange(length), length=length),
      'video': scene.video(frames),
      'layers': kubric_tracks.read_layers(scene, frames),
    }

  def augment(
    self, clip: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Cuts a box, draws queries in it, follows them and resizes.

    Args:
      clip: from `sample`; not changed.
      rng: numpy generator.

    Returns:
      dict(video=uint8[T, H, W, 3], query_points=float32[N, 3], (t, y, x),
      query_mask=bool[N], all True, target_points=float32[N, T, 2], (x, y),
      occluded=bool[N, T], and the labels), in pixels of the output.

    Raises:
      ValueError: `keep` names a field that is not there.
    """
    clip = dict(clip)
    layers = clip.pop('layers')
    source = layers.camera.size
    size = self._size or source
    box = (0, 0, *source)
    if self._train:
      box = distorted_box(rng, source, area=self._area, aspect=self._aspect)
    tracks = kubric_tracks.sample_tracks(
      layers,
      rng,
      box=box,
      num_tracks=self._num_tracks,
      first=self._first,
      snap_to_occluder=self._snap,
    )
    clip.update(tracks._asdict())
    window = windows.Window(source, box, size, (0, 0), size)
    if self._corner_aligned:
      example = augment.move_labels(clip, window)
      example['video'] = _resize_corner_aligned(clip['video'], box, size)
    else:
      example = augment.apply(clip, window, method='bilinear_no_antialias')
    if self._vertical_flip:
      example['video'] = np.ascontiguousarray(example['video'][:, ::-1])
      for name in ('query_points', 'target_points'):  # y is second in both
        example[name][..., 1] = size[0] - example[name][..., 1]
    example['query_mask'] = np.ones(self._num_tracks, bool)
    if not self._keep:
      return example
    missing = [name for name in self._keep if name not in example]
    if missing:
      raise ValueError(
        f'keep names {missing}, the example has {sorted(example)}'
      )
    return {name: example[name] for name in self._keep}


def distorted_box(
  rng: np.random.Generator,
  source: windows.Size,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
  attempts: int = 20,
) -> tuple[int, int, int, int]:
  """TensorFlow's `sample_distorted_bounding_box`: (top, left, height, width).

  The aspect ratio (width / height) is uniform, then the height among those that
  give an allowed area. After `attempts` failures the whole picture.
  """
  height, width = source
  least, most = (fraction * height * width for fraction in area)
  for _ in range(attempts):
    ratio = rng.uniform(*aspect)
    high = round((most / ratio) ** 0.5)
    if round(high * ratio) > width:
      high = int((width + 0.5 - 1e-7) / ratio)
    high = min(high, height)
    low = min(round((least / ratio) ** 0.5), high)
    h = int(rng.integers(low, high + 1))
    # Rounding may have left the range.
    h += int(h * round(h * ratio) < least)
    h -= int(h * round(h * ratio) > most)
    w = round(h * ratio)
    if least <= h * w <= most and 0 < h <= height and 0 < w <= width:
      top = int(rng.integers(height - h)) if h < height else 0
      left = int(rng.integers(width - w)) if w < width else 0
      return top, left, h, w
  return 0, 0, height, width


# --- private ---


def _resize_corner_aligned(video, box, size):
  """TensorFlow's crop_and_resize with corners of the box on corner pixels."""
  out = video.astype(np.float32)
  for axis, (begin, side, length) in enumerate(
    zip(box[:2], box[2:], size, strict=True), start=1
  ):
    at = begin + np.arange(length) * (side / max(length - 1, 1))
    last = video.shape[axis] - 1
    low = np.clip(np.floor(at).astype(np.int64), 0, last)
    weight = (at - low).astype(np.float32)
    weight = weight.reshape([-1 if i == axis else 1 for i in range(4)])
    high = np.minimum(low + 1, last)
    out = out.take(low, axis) * (1 - weight) + out.take(high, axis) * weight
    out = np.where((at <= last).reshape(weight.shape), out, 0)
  return np.round(out).astype(np.uint8)
