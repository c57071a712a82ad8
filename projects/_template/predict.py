"""What the model makes of a whole video, frame by frame beside the truth."""

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.data import resize
from vidscenic.ops import metrics
from vidscenic.ops import video as video_ops
from vidscenic.viz import images


def reconstruct(model, video, out, *, strip_frames=4):
  """Hides patches of every clip and shows what the model fills in.

  Writes, at the size and rate of the video,
    reconstruction.mp4: visible patches, prediction and truth side by side,
    reconstruction.png: some frames of it, from the first to the last,
    results.npz: `times` in seconds and `psnr` in dB, one number per frame,
    psnr.csv: the same as a table.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with a `MaskedVideo` task.
    video: `vidscenic.data.stream.VideoStream`.
    out: `vidscenic.tools.outputs.Outputs`.
    strip_frames: number of frames in the picture.
  """
  task = model.task
  length, *size = task.clip

  @jax.jit
  def fill_in(params, model_state, clip, row):
    batch = {'video': clip[None], 'mask': jnp.ones(1, bool)}
    clips, _ = task.predict(params, model_state, batch, model.context([row]))
    clips = {name: clip[0] for name, clip in clips.items()}
    psnr = jax.vmap(
      lambda frame, truth: metrics.psnr(
        frame[None], truth[None], value_range=2.0
      )[0]
    )(clips['predicted'], clips['truth'])
    small = [video_ops.denormalize(clips[n]) for n in ('visible', 'predicted')]
    return small, psnr

  chosen = np.linspace(0, video.num_frames - 1, strip_frames).round()
  strip = []
  for chunk in video.chunks(length, size=size, with_source=True):
    small, psnr = jax.device_get(
      fill_in(model.params, model.model_state, chunk.frames, chunk.first)
    )
    columns = [
      resize.resize_frames(clip, chunk.source.shape[1:3], method='bilinear')
      for clip in small
    ]
    frames = images.side_by_side(
      *columns, chunk.source, labels=('visible', 'predicted', 'truth')
    )[: chunk.count]
    psnr = psnr[: chunk.count]
    numbers = chunk.first + np.arange(chunk.count)
    out.frames('reconstruction', frames)
    out.arrays('times', chunk.times)
    out.arrays('psnr', psnr)
    out.table(
      'psnr',
      ('frame', 'seconds', 'psnr'),
      zip(numbers, chunk.times, psnr, strict=True),
    )
    strip += list(frames[np.isin(numbers, chosen)])
  out.picture('reconstruction', images.grid(strip, columns=1))
