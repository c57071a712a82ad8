"""Clips with sound for the autoencoder of Perceiver IO (arXiv 2107.14795)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidscenic.data import clips

# Of samples per frame or second; whole patches may leave a little out.
_TOLERANCE = 0.01


class AudioVideoClips(clips.ClipTransform):
  """`ClipTransform` whose sound has one channel and the clip's length.

  Examples: video uint8[T, H, W, 3], audio float32[S, 1], audio_mask bool[],
  False and silent where there is no sound, and label. With several views video,
  audio and audio_mask have a leading axis for them.

  The sound of files is resampled. That of arrays, such as synthetic clips, is
  averaged over its channels; it must have as many samples per frame as asked
  for.
  """

  def __init__(
    self,
    num_frames: int = 16,
    fps: float = 25.0,
    audio_rate: int = 48_000,
    audio_samples: int = 0,
    **options: Any,
  ):
    """Takes the arguments of `ClipTransform`.

    Args:
      num_frames: T.
      fps: frames per second of the clip; 0: that of the video.
      audio_rate: samples per second.
      audio_samples: S; 0: audio_rate * num_frames / fps.
      **options: the others.

    Raises:
      ValueError: sound and pictures of different lengths.
    """
    expected = round(audio_rate * num_frames / fps) if fps else 0
    samples = audio_samples or expected
    if not samples:
      raise ValueError('fps=0 needs audio_samples=audio_rate * T / fps')
    if expected and samples != expected:
      raise ValueError(
        f'audio_samples={samples}, but {num_frames} frames at fps={fps} last '
        f'{expected} samples at audio_rate={audio_rate}: change one of them'
      )
    self._num_samples, self._num_frames = samples, num_frames
    self._rate = audio_rate
    super().__init__(
      num_frames=num_frames,
      fps=fps,
      audio_rate=audio_rate,
      audio_samples=samples,
      audio_mono=True,
      **options,
    )

  def sample(
    self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> clips.Clip:
    """As `ClipTransform.sample`.

    Raises:
      ValueError: frames in memory come without sound, which only a file may
        lack, or their sound has another rate.
    """
    if isinstance(record.get('video'), np.ndarray) and 'audio' not in record:
      raise ValueError(
        f'the data give {sorted(record)}, no audio: turn the sound on, such as '
        'data.train.source_kwargs.audio=True, or give video files'
      )
    if 'audio' in record:
      # Its rate is its length over that of the pictures.
      given = len(record['audio']) / len(record['video'])
      rate = given * float(record.get('fps', 0))  # 0: unknown
      if rate and abs(rate - self._rate) > _TOLERANCE * self._rate:
        raise ValueError(
          f'the sound has {rate:.0f} samples per second, transform_kwargs.'
          f'audio_rate={self._rate}: make it {rate:.0f}, or resample the sound'
        )
      want = self._num_samples / self._num_frames
      if abs(given - want) > _TOLERANCE * want:
        raise ValueError(
          f'the sound has {given:.1f} samples per frame, want {want:.1f}: '
          'change transform_kwargs.audio_samples, or fps and audio_rate'
        )
    clip = super().sample(record, rng)
    views = clip['video'].shape[:-4]
    if 'audio' not in clip:  # encoded pictures have none
      audio = np.zeros((*views, self._num_samples, 1), np.float32)
      return clip | {'audio': audio, 'audio_mask': np.zeros(views, bool)[()]}
    audio = np.asarray(clip['audio'], np.float32)
    if audio.ndim == len(views) + 1:
      audio = audio[..., None]
    audio = audio.mean(axis=-1, keepdims=True)[..., : self._num_samples, :]
    widths = [(0, 0)] * audio.ndim
    widths[-2] = (0, self._num_samples - audio.shape[-2])
    clip.setdefault('audio_mask', np.ones(views, bool)[()])
    clip['audio'] = np.pad(audio, widths)
    return clip
