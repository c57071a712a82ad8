"""Features of a whole video, as pictures and arrays."""

import numpy as np

from projects.layerlock import windows
from vidscenic.data import resize
from vidscenic.viz import features as feature_pictures
from vidscenic.viz import images


def features(model, video, out, *, size=()):
  """Writes the features of every frame of a video.

  Features are those of 4DS for tracking: in front of the last block, window by
  window, brought to the frame rate. Memory does not grow with the video, which
  is read twice: once for the components, once for the pictures.

  Writes
    features.mp4: the video and, beside it, the first three principal components
      of its features as colours,
    results.npz: `times` in seconds and `feature_norm`, the mean norm of the
      features of each frame.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with a `task.MaskedVideo`.
    video: `vidscenic.data.stream.VideoStream`.
    out: `vidscenic.tools.outputs.Outputs`.
    size: (H, W) that frames are resized to; (): that of training clips.
  """
  length, *trained = model.task.clip
  size = tuple(size or trained)

  def maps(chunk):
    frames = np.asarray(chunk.frames)[: chunk.count]
    (found,) = windows.dense_features(
      model.task.model, model.params, [frames], window=length
    )
    return found

  colours = feature_pictures.FeaturePca()
  for chunk in video.chunks(length, size=size):
    colours.update(maps(chunk))
  colours.finish()
  for chunk in video.chunks(length, size=size, with_source=True):
    found = maps(chunk)
    source = chunk.source[: chunk.count]
    pictures = resize.resize_frames(
      colours.colors(found), source.shape[1:3], method='bilinear'
    )
    out.frames(
      'features',
      images.side_by_side(source, pictures, labels=('video', 'features')),
    )
    out.arrays('times', chunk.times[: chunk.count])
    out.arrays('feature_norm', np.linalg.norm(found, axis=-1).mean((1, 2)))
