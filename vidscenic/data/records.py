"""Cutting a source's record in time: pictures, labels and sound of a clip."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidscenic.data import audio, augment, decode, sources, windows

Clip = dict[str, Any]

# Time axis of each label that has one; intrinsics may or may not.
_TIME_AXIS = {name: 0 for name in augment.MOVED} | {
  'target_points': 1,
  'occluded': 1,
}
for _name in ('video', 'query_points', 'intrinsics'):
  del _TIME_AXIS[_name]


class FileVideo:
  """Pictures of a video file; only what is asked for is decoded.

  Attributes:
    length: number of frames.
    fps: frames per second, 0.0 if unknown.
    size: (height, width).
  """

  def __init__(self, video: sources.VideoFile):
    self._video = video
    self._index = video.index()
    self.length, self.fps = self._index.num_frames, self._index.fps
    self.size = (self._index.height, self._index.width)

  def read(
    self, indices: np.ndarray, size: windows.Size | None = None
  ) -> np.ndarray:
    """uint8[n, H, W, 3]; scaled to `size` while decoding if that is given."""
    return decode.read_frames(
      self._video.file,
      indices,
      self._index,
      size=size,
      name=self._video.path,
    )

  def sound(
    self, frame: int, *, samples: int, rate: int, mono: bool
  ) -> np.ndarray | None:
    """float32[samples, 1 or 2] from a frame on; None if there is no sound."""
    if not self._index.has_audio:
      return None
    start = float(self._index.times[frame])
    return audio.read_audio(
      self._video.file,
      start,
      start + samples / rate,
      rate,
      mono,
      origin_s=self._index.start,
      name=self._video.path,
    )


class ArrayVideo:
  """Pictures uint8[T, H, W, 3] in memory; attributes as `FileVideo`."""

  def __init__(self, video: np.ndarray, fps: float):
    if video.ndim != 4 or video.shape[3] != 3:
      raise ValueError(
        f'video must be uint8[T, H, W, 3], got {list(video.shape)}'
      )
    self._video = video
    self.length, self.fps, self.size = len(video), fps, video.shape[1:3]

  def read(self, indices: np.ndarray) -> np.ndarray:
    """uint8[n, H, W, 3]."""
    return self._video[indices]


class ImageVideo:
  """Pictures as encoded images, bytes each; decodes what is asked for."""

  def __init__(self, images: Sequence[bytes], fps: float, name: str):
    self._images, self._name = images, name
    self.length, self.fps, self.size = len(images), fps, None

  def read(self, indices: np.ndarray) -> np.ndarray:
    """uint8[n, H, W, 3]."""
    return decode.read_images(self._images, indices, name=self._name)


def open_video(
  record: Mapping[str, Any],
) -> FileVideo | ArrayVideo | ImageVideo:
  """Finds out what record['video'] is.

  Args:
    record: with 'video': a `sources.VideoFile`, the bytes of a video file, a
      sequence of encoded images (bytes each), or uint8[T, H, W, 3]. 'path' or
      'id' names bytes in errors, 'fps' is the frame rate of images and arrays.

  Raises:
    decode.VideoError: the file cannot be indexed, or there are no frames.
    ValueError: no 'video', or something else in it.
  """
  if 'video' not in record:
    raise ValueError(f'a record needs the field video, got {sorted(record)}')
  video = record['video']
  name = record.get('path', record.get('id', 'video in memory'))
  name = name.decode() if isinstance(name, bytes) else str(name)
  if isinstance(video, (bytes, bytearray, memoryview)):
    video = sources.VideoFile(name, bytes(video))
  if isinstance(video, sources.VideoFile):
    return FileVideo(video)
  if isinstance(video, (list, tuple, np.ndarray)):
    if np.shape(video)[:1] == (0,):
      raise decode.VideoError(name, 'no frames')
  fps = float(record.get('fps', 0.0))
  if isinstance(video, np.ndarray) and video.dtype == np.uint8:
    return ArrayVideo(video, fps)
  if isinstance(video, (list, tuple, np.ndarray)) and len(video):
    if all(isinstance(image, bytes) for image in video):
      return ImageVideo(video, fps, name)
  raise ValueError(
    'video must be a VideoFile, bytes, a sequence of encoded images or '
    f'uint8[T, H, W, 3], got {type(video).__name__}'
    + (f' of {video.dtype}' if isinstance(video, np.ndarray) else '')
  )


def take_labels(
  labels: Mapping[str, Any],
  indices: np.ndarray,
  *,
  length: int,
  keep_flow: bool = True,
) -> Clip:
  """Selects frames of every label that has a time axis (see `augment`).

  The forward flow of a frame means nothing unless the next frame follows in the
  clip, the backward flow unless the one before precedes it: there it becomes
  zero and its mask False.

  Args:
    labels: fields of a record without 'video'.
    indices: int[n], frames of the clip; may repeat.
    length: frames of the whole video.
    keep_flow: False drops flow fields, for clips whose frames are no
      neighbours.

  Returns:
    All fields. query_points of frames that are not in the clip have t = NaN
    until `augment.redraw_queries`; of a repeated frame they take the first.

  Raises:
    ValueError: a label's time axis is not `length` long.
  """
  clip = dict(labels)
  if not keep_flow:
    for name in [*augment.FLOW_MASKS, *augment.FLOW_MASKS.values()]:
      clip.pop(name, None)
  axes = dict(_TIME_AXIS)
  if np.ndim(clip.get('intrinsics')) == 2:
    axes['intrinsics'] = 0
  for name, axis in axes.items():
    if name not in clip:
      continue
    if clip[name].shape[axis] != length:
      raise ValueError(
        f'{name} has {clip[name].shape[axis]} frames, the video {length}'
      )
    clip[name] = np.take(clip[name], indices, axis=axis)
  _mask_flow(clip, indices)
  if 'query_points' in clip:
    queries = np.array(clip['query_points'], np.float32)
    matches = np.round(queries[:, :1]).astype(np.int64) == indices
    queries[:, 0] = np.where(matches.any(1), matches.argmax(1), np.nan)
    clip['query_points'] = queries
  return clip


def take_sound(
  sound: np.ndarray,
  *,
  first: int,
  span: float,
  length: int,
  samples: int = 0,
) -> np.ndarray:
  """Cuts float[S, C] that lasts as long as `length` frames.

  Returns:
    float32[samples, C] from frame `first` on, by default
    round(span S / length) samples; silence beyond the end.
  """
  per_frame = len(sound) / length
  begin, count = round(first * per_frame), samples or round(span * per_frame)
  out = np.zeros((count, *sound.shape[1:]), np.float32)
  part = sound[begin : begin + count]
  out[: len(part)] = part
  return out


def _mask_flow(clip, indices):
  follows = np.diff(indices) == 1
  valid = {
    'forward_flow': np.append(follows, False),
    'backward_flow': np.append(False, follows),
  }
  for name, mask in augment.FLOW_MASKS.items():
    if name not in clip:
      continue
    flow, good = clip[name], valid[name][:, None, None]
    if mask not in clip:
      clip[mask] = np.ones(flow.shape[:3], bool)
    clip[mask] = clip[mask] & good
    clip[name] = np.where(good[..., None], flow, np.zeros((), flow.dtype))
