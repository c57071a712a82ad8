"""Tracks points through one's own videos; writes pictures and numbers."""

from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from projects.tapir import model as model_lib
from projects.tapir import offline, points, rainbow, tracker
from vidscenic.tools import predict
from vidscenic.viz import tracks as tracks_viz

_DRAWN = 16  # frames that are drawn at a time


def track(
  model,
  video,
  out,
  *,
  points_from: str = 'grid',
  num_points: int = 256,
  frame: int = 0,
  seed: int = 0,
  online: bool = False,
  resolution: Sequence[int] = (),
  window: int = 0,
  trail: int = 12,
):
  """Tracks points and shows them.

  Writes, at the size and rate of the video,
    tracks.mp4: a dot for each visible point with a fading trail, a ring where
      it is hidden,
    rainbow.mp4: the same with the motion of the camera taken out of the trails,
    tracks.csv: frame, seconds, point, x, y, visible (1 or 0), a row per point
      and frame,
    results.npz: `queries` [N, 3], (frame, y, x), `times` [T] in seconds,
      `points` [T, N, 2], (x, y), and `visible` [T, N].
  Positions are raster pixels of the video. Online, a point is NaN and not
  visible before its own frame, and has no rows there. Nor is it known that a
  video ends early before it is there: then there is a warning.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with a `PointTracking` task.
    video: `vidscenic.data.stream.VideoStream`.
    out: `vidscenic.tools.outputs.Outputs`.
    points_from, num_points, frame, seed: see `points.choose`.
    online: frame by frame in constant memory, for videos of any length; needs a
      causal model. Else whole videos, better and in both directions.
    resolution: (height, width) that the model sees, multiples of 8; () takes
      the one of its training.
    window: frames at once if not online; 0: as many as memory allows.
    trail: frames that trails reach back.

  Raises:
    UsageError: names the argument, and what is wanted.
  """
  net = model.task.model
  if not isinstance(net, model_lib.Tapir):
    raise predict.UsageError(
      'these weights are TAP-Net, which only serves as a baseline: take TAPIR'
    )
  for name, value in (('window', window), ('trail', trail)):
    if not isinstance(value, int) or value < 0:
      raise predict.UsageError(
        f'{name}={value!r}: want a whole number, 0 or more'
      )
  if not isinstance(online, bool):
    raise predict.UsageError(f'online={online!r}: want True or False')
  try:
    queries = points.choose(
      points_from,
      num_points=num_points,
      frame=frame,
      seed=seed,
      size=(video.height, video.width),
      num_frames=video.num_frames,
    )
    resolution = tracker.check_resolution(
      net.initial_resolution if resolution == () else resolution
    )
    kind = _online if online else _offline
    steps = kind(net, model.params, video, queries, resolution, window)
  except ValueError as error:
    raise predict.UsageError(str(error)) from error
  colors = points.colors(queries)
  painter = tracks_viz.TrackPainter(trail=trail, colors=colors)
  tails = rainbow.Rainbow(colors, tail=trail)
  out.arrays('queries', queries)
  for number, pictures, found, visible in steps:
    shown = painter.draw(pictures, found.swapaxes(0, 1), ~visible.T)
    out.frames('tracks', shown, first=number)
    shown = [
      tails.draw(*step) for step in zip(pictures, found, visible, strict=True)
    ]
    out.frames('rainbow', np.stack(shown), first=number)
    times = video.times[number : number + len(pictures)]
    out.arrays('times', times)
    out.arrays('points', found)
    out.arrays('visible', visible)
    rows = tracks_viz.rows(number, times, found, visible)
    out.table('tracks', tracks_viz.COLUMNS, rows)


# (number of the first frame, frames [t, H, W, 3], points [t, N, 2], visible)
Steps = Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]


def _offline(net, params, video, queries, resolution, window) -> Steps:
  windows = offline.Windows(net, params, resolution, window)
  found, visible = windows.track(video, queries)

  def steps():
    for chunk in video.chunks(_DRAWN, pad=False):
      part = slice(chunk.first, chunk.first + chunk.count)
      yield (
        chunk.first,
        chunk.frames,
        found[:, part].swapaxes(0, 1),
        visible[:, part].T,
      )

  return steps()


def _online(net, params, video, queries, resolution, window) -> Steps:
  if window:
    raise ValueError(
      f'window={window} is for whole videos: leave it out online'
    )
  live = tracker.Tracker(net, params, resolution)
  # Points get their numbers in the order of their frames.
  order = np.argsort(queries[:, 0], kind='stable')
  when = queries[order, 0].astype(int)

  def steps():
    state = None
    for chunk in video.chunks(1):
      number, picture = chunk.first, chunk.frames[0]
      places = queries[order[when == number], :0:-1]
      if len(places):
        if state is None:
          state = live.start(picture, places, slots=len(queries))
        else:
          state = live.add(picture, state, places)
      found = np.full((len(queries), 2), np.nan, np.float32)
      visible = np.zeros(len(queries), bool)
      if state is not None:
        tracks, state = live.step(picture, state)
        found[order[tracks.ids]] = tracks.points
        visible[order[tracks.ids]] = tracks.visible
      yield number, chunk.frames, found[None], visible[None]
    missed = np.count_nonzero(when >= video.num_frames)
    if missed:
      logging.warning(
        '%s ends at frame %d (%s): %d of %d points are in later frames and not '
        'tracked; choose earlier frames',
        video.path,
        video.num_frames,
        video.damage,
        missed,
        len(queries),
      )

  return steps()
