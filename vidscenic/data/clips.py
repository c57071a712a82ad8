"""From a record of a source to a training example: sample, decode, augment.

`ClipTransform.sample` chooses frames and decodes only those; `augment` crops,
resizes and flips. They are apart so that one decoded clip can be augmented
several times.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidscenic.data import augment, clip_indices, records, resize, windows

Clip = dict[str, Any]

# With several views these carry a leading view axis.
PER_VIEW = (*augment.MOVED, 'query_mask', 'audio', 'audio_mask')
_RANDOM_CROPS = ('random_resized', 'random', 'multi_scale')
CROPS = (*_RANDOM_CROPS, 'center', 'three', 'none')


class ClipTransform:
  """Samples clips from records and augments them; for `data.transform`.

  A record holds 'video' (a `sources.VideoFile`, bytes of a video file, encoded
  images, or uint8[T, H, W, 3]) and labels beside it. `augment` lists the labels
  that follow frames and pixels; others (label, ...) pass through.

  Args:
    num_frames: frames per clip.
    stride: frames from one to the next.
    fps: frame rate of the clip, 0 = that of the file. For images and arrays the
      record's 'fps' is the file's rate; a rate that nobody knows is an error.
    protocol: 'dmvr', 'slowfast' or 'vjepa', see `clip_indices`.
    pad: 'loop' or 'hold' for short videos, '' = what the protocol does.
    train: random offsets and flips; else the evaluation rule.
    num_views: clips per video. With several (or crop='three') the video is
      [V, T, H, W, 3] and all fields of PER_VIEW have the leading axis too; in
      training each is cropped and flipped by itself.
    spread_ends: see `clip_indices.sample_indices`.
    size: (height, width) of the output; () keeps the pictures' size.
    crop: '' is 'random_resized' in training, else 'center'.
      'random_resized': random area and aspect ratio, resized to size;
      'random': a random place of the picture resized to `short_side`;
      'multi_scale': sides from `scales`, resized to size;
      'center': the middle of the picture resized to `short_side`;
      'three': left, centre, right (or top to bottom) of it; V becomes V * 3
        with the crops of one clip together;
      'none': the whole picture, resized to size.
    area: range of the fraction of the picture, for 'random_resized'.
    aspect: range of width / height relative to that of size, likewise.
    scales: fractions of the short side, for 'multi_scale'.
    short_side: pixels, for 'random', 'center' and 'three'; (low, high) draws it
      uniformly in training. 0: just large enough to cover size, which it is
      made in any case.
    jitter_scale: range of the factors of DMVR's scale jitter before a 'random'
      crop.
    jitter_prob: probability of that jitter; DMVR's is 0.8.
    flip: probability of a mirror; nothing is flipped unless train. Set 0 where
      a label tells left from right ('turn left'); a source that says
      `flip_allowed = False` (Something-Something) insists on it.
    resize_method: one of `resize.METHODS`; '' is 'fast_bilinear' in training,
      'bilinear' in evaluation.
    decode_short_side: shrink files to this short side while decoding, 0: off.
      Saves memory and a resize; not for parity.
    audio_rate: samples per second of 'audio', read from the file; 0: none. The
      sound of array records keeps its own rate and is returned in any case.
    audio_samples: length S of 'audio' float32[S, 1 or 2], from the clip's first
      frame on. audio_mask bool[] is False, and all silent, for files without
      sound. 0: the sound of array records lasts as long as the clip.
    audio_mono: one channel, else two.
    keep: names of the fields to return, () = all.

  Attributes:
    flip: probability of a mirror, 0 unless train.

  Raises:
    ValueError: names the argument that cannot be used.
  """

  def __init__(
    self,
    num_frames: int = 16,
    stride: int = 1,
    fps: float = 0.0,
    protocol: str = 'dmvr',
    pad: str = '',
    train: bool = True,
    num_views: int = 1,
    spread_ends: bool = False,
    size: Sequence[int] = (224, 224),
    crop: str = '',
    area: tuple[float, float] = (0.3, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
    short_side: int | tuple[int, int] = 0,
    jitter_scale: tuple[float, float] = (0.8, 1.2),
    jitter_prob: float = 0.0,
    flip: float = 0.5,
    resize_method: str = '',
    decode_short_side: int = 0,
    audio_rate: int = 0,
    audio_samples: int = 0,
    audio_mono: bool = True,
    keep: Sequence[str] = (),
  ):
    self._indices = dict(
      num_frames=num_frames,
      stride=stride,
      fps=fps,
      protocol=protocol,
      pad=pad,
      num_views=num_views,
      spread_ends=spread_ends,
    )
    self._train = train
    self._size = tuple(size)
    self._crop = crop or ('random_resized' if train else 'center')
    self._area, self._aspect = tuple(area), tuple(aspect)
    self._scales = tuple(scales)
    # (low, high), equal if nothing is drawn.
    self._short_side = tuple(np.broadcast_to(short_side, 2).tolist())
    self._jitter = dict(scales=tuple(jitter_scale), prob=jitter_prob)
    self._flip = flip
    default = 'fast_bilinear' if train else 'bilinear'
    self._method = resize_method or default
    self._decode_short_side = decode_short_side
    self._audio = dict(samples=audio_samples, rate=audio_rate, mono=audio_mono)
    self._keep = tuple(keep)
    self._check()

  @property
  def flip(self) -> float:
    """Probability of a mirror; `pipeline` asks for it."""
    return self._flip if self._train else 0.0

  def sample(self, record: Mapping[str, Any], rng: np.random.Generator) -> Clip:
    """Chooses frames and decodes them.

    Args:
      record: see the class.
      rng: numpy generator; in evaluation used only to redraw queries.

    Returns:
      The record with every field cut to the chosen frames. Queries whose frame
      was not chosen have moved along their track, see
      `augment.redraw_queries`.

    Raises:
      decode.VideoError: the video cannot be read; names it.
      ValueError: the record's fields do not fit together.
    """
    video = records.open_video(record)
    indices = clip_indices.sample_indices(
      video.length,
      file_fps=video.fps,
      rng=rng if self._train else None,
      **self._indices,
    )
    labels = {k: v for k, v in record.items() if k != 'video'}
    frames, labels = self._read(video, indices.ravel(), labels)
    frames = frames.reshape(*indices.shape, *frames.shape[1:])
    # Flow joins neighbours; with other strides it would have to be added up.
    near = self._indices['stride'] == 1 and not self._indices['fps']
    clips = []
    for chosen, pictures in zip(indices, frames, strict=True):
      clip = records.take_labels(
        labels, chosen, length=video.length, keep_flow=near
      )
      clip['video'] = pictures
      self._add_sound(clip, video, int(chosen[0]))
      clips.append(augment.redraw_queries(clip, rng))
    return _stack(clips) if self._indices['num_views'] > 1 else clips[0]

  def augment(self, clip: Mapping[str, Any], rng: np.random.Generator) -> Clip:
    """Crops, resizes and flips a sampled clip with its labels.

    Args:
      clip: from `sample`; not changed.
      rng: numpy generator; in evaluation used only to redraw queries.

    Returns:
      The example; 'video' is uint8[T, H, W, 3], or [V, T, H, W, 3].

    Raises:
      ValueError: `keep` names a field that is not there.
    """
    out = []
    for view in _unstack(clip) if clip['video'].ndim == 5 else [clip]:
      view, choices = self._windows(view, rng)
      mirror = self._train and rng.random() < self._flip
      for window in choices:
        moved = augment.apply(
          view, window._replace(flip=mirror), method=self._method
        )
        out.append(augment.redraw_queries(moved, rng))
    several = clip['video'].ndim == 5 or len(out) > 1
    example = _stack(out) if several else out[0]
    if not self._keep:
      return example
    missing = [name for name in self._keep if name not in example]
    if missing:
      raise ValueError(
        f'keep names {missing}, the example has {sorted(example)}'
      )
    return {name: example[name] for name in self._keep}

  def _read(self, video, indices, labels):
    """Pictures, and the labels moved with a resize during decoding."""
    side = self._decode_short_side
    if not side or not isinstance(video, records.FileVideo):
      return video.read(indices), labels
    if min(video.size) <= side:
      return video.read(indices), labels
    size = windows.smallest(video.size, side)
    labels = augment.move_labels(labels, windows.whole(video.size, size))
    return video.read(indices, size), labels

  def _add_sound(self, clip, video, first):
    if isinstance(video, records.FileVideo):
      if not self._audio['rate']:
        return
      sound = video.sound(first, **self._audio)
      clip['audio_mask'] = np.bool_(sound is not None)
      if sound is None:
        channels = 1 if self._audio['mono'] else 2
        sound = np.zeros((self._audio['samples'], channels), np.float32)
      clip['audio'] = sound
    elif 'audio' in clip:
      step = clip_indices.frame_step(
        self._indices['stride'],
        protocol=self._indices['protocol'],
        file_fps=video.fps,
        fps=self._indices['fps'],
      )
      clip['audio'] = records.take_sound(
        clip['audio'],
        first=first,
        span=self._indices['num_frames'] * step,
        length=video.length,
        samples=self._audio['samples'],
      )

  def _windows(self, clip, rng):
    """(the clip, the windows to cut from it)."""
    source, size = augment.picture_size(clip), self._size
    if self._crop == 'none':
      return clip, [windows.whole(source, size)]
    if self._crop == 'random_resized':
      window = windows.random_resized(
        rng, source, size, area=self._area, aspect=self._aspect
      )
      return clip, [window]
    if self._crop == 'multi_scale':
      return clip, [windows.multi_scale(rng, source, size, scales=self._scales)]
    scaled = self._scaled(source, rng)
    if self._crop == 'center':
      return clip, [windows.center(source, scaled, size)]
    if self._crop == 'three':
      # Resize once, then cut three times.
      resized = windows.whole(source, scaled)
      clip = augment.apply(clip, resized, method=self._method)
      return clip, windows.three(scaled, scaled, size)
    if self._jitter['prob']:
      scaled = windows.jittered(rng, scaled, **self._jitter)
    return clip, [windows.random_crop(rng, source, scaled, size)]

  def _scaled(self, source, rng):
    low, high = self._short_side
    if not high:
      return windows.covering(source, self._size)
    side = low if low == high else int(rng.integers(low, high + 1))
    scaled = windows.smallest(source, side)
    # A long side longer than the picture's shape gives would be padded.
    if scaled[0] < self._size[0] or scaled[1] < self._size[1]:
      return windows.covering(source, self._size)
    return scaled

  def _check(self):
    """Raises a ValueError that names the first unusable argument."""
    indices, audio, size = self._indices, self._audio, self._size
    for name, least, value in (
      ('num_frames', 1, indices['num_frames']),
      ('stride', 1, indices['stride']),
      ('num_views', 1, indices['num_views']),
      ('fps', 0, indices['fps']),
      ('short_side', 0, self._short_side[0]),
      ('decode_short_side', 0, self._decode_short_side),
      ('audio_rate', 0, audio['rate']),
      ('audio_samples', 0, audio['samples']),
    ):
      if value < least:
        raise ValueError(f'{name} must be >= {least}, got {value}')
    for name, value, allowed in (
      ('protocol', indices['protocol'], clip_indices.PROTOCOLS),
      ('pad', indices['pad'], clip_indices.PADS),
      ('crop', self._crop, CROPS),
      ('resize_method', self._method, resize.METHODS),
    ):
      if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
    for name, value in (
      ('flip', self._flip),
      ('jitter_prob', self._jitter['prob']),
    ):
      if not 0 <= value <= 1:
        raise ValueError(f'{name} must be in [0, 1], got {value}')
    for name, bounds in (
      ('area', self._area),
      ('aspect', self._aspect),
      ('jitter_scale', self._jitter['scales']),
    ):
      if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f'{name} must be 0 < low <= high, got {bounds}')
    if len(size) not in (0, 2) or any(side < 1 for side in size):
      raise ValueError(f'size must be (height, width) or (), got {size}')
    if not size and self._crop != 'none':
      raise ValueError(f'crop={self._crop!r} needs size=(height, width)')
    if not self._train and self._crop in _RANDOM_CROPS:
      raise ValueError(f'crop={self._crop!r} is random but train=False')
    low, high = self._short_side
    if low > high or (low < high and not self._train):
      raise ValueError(
        'short_side must be a number, or (low, high) in training, got '
        f'{self._short_side}'
      )
    if high and low < min(size, default=0):
      raise ValueError(f'short_side={low} is smaller than size={size}')
    if bool(audio['rate']) != bool(audio['samples']):
      raise ValueError(
        'audio_rate and audio_samples go together, got '
        f'{audio["rate"]} and {audio["samples"]}'
      )


def _stack(clips):
  """Puts the views of one example side by side."""
  out = dict(clips[0])
  for name in PER_VIEW:
    if name in out:
      out[name] = np.stack([clip[name] for clip in clips])
  return out


def _unstack(clip):
  shared = {k: v for k, v in clip.items() if k not in PER_VIEW}
  return [
    shared | {k: clip[k][view] for k in PER_VIEW if k in clip}
    for view in range(len(clip['video']))
  ]
