"""Tracks points forward and back again: how far from their start do they end?

  python -m projects.tapir.cycle clip.mp4
  python -m projects.tapir.cycle clip.mp4 --weights=causal_tapir --frames=48

A check on videos without truth. For the model and for the trackers of
`baselines`: the share of points that are called visible in the last frame; of
these, how far they moved (median), how far from their start they are when
tracked back (median), and which share is within 8 pixels. Pixels are those of
frames of --size. Points that never move return perfectly and follow nothing:
read both columns.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from projects.tapir import baselines, importer, offline, points, tracker
from vidscenic.data import stream

_NEAR = 8.0  # pixels


class Cycle(NamedTuple):
  """Figures of one tracker on one clip; NaN where no point is visible."""

  visible: float  # share of all points, in the last frame
  moved: float  # median, pixels
  returned: float  # median distance, pixels
  near: float  # share within 8 pixels


def measure(track, frames: np.ndarray, starts: np.ndarray) -> Cycle:
  """Tracks forward from the first frame, then back from the last.

  Args:
    track: function of (frames uint8[T, H, W, 3], queries float32[N, 3], (t, y,
      x)) that returns (points [N, T, 2], (x, y), visible bool[N, T]).
    frames: the clip.
    starts: float32[N, 2], (x, y) in raster pixels of the first frame.
  """
  found, visible = track(frames, _queries(0, starts))
  ends, size = found[:, -1], frames.shape[2:0:-1]
  seen = visible[:, -1] & np.all((ends >= 0) & (ends <= size), axis=-1)
  if not seen.any():
    return Cycle(0.0, np.nan, np.nan, np.nan)
  # All points go back, so that the same program serves both ways.
  back, _ = track(frames, _queries(len(frames) - 1, np.clip(ends, 0, size)))
  distance = np.linalg.norm(back[:, 0] - starts, axis=-1)[seen]
  moved = np.linalg.norm(ends - starts, axis=-1)[seen]
  return Cycle(
    float(seen.mean()),
    float(np.median(moved)),
    float(np.median(distance)),
    float(np.mean(distance <= _NEAR)),
  )


def _queries(frame, positions):
  return np.column_stack(
    [np.full(len(positions), frame), positions[:, ::-1]]
  ).astype(np.float32)


def _baseline(function):
  """A tracker of `baselines` as `measure` wants it."""
  run = jax.jit(function)

  def track(frames, queries):
    found, hidden = run(np.float32(frames[None]), queries[None])
    return np.asarray(found[0]), ~np.asarray(hidden[0])

  return track


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog='python -m projects.tapir.cycle',
    description='Tracks points forward and back again.',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add('video', help='file')
  add('--weights', default=importer.OWN_WEIGHTS, help='name or file')
  add('--frames', type=int, default=24, help='of the video, from its start')
  add('--points', type=int, default=256, help='at random places')
  add('--size', type=int, nargs=2, default=(256, 256), help='height width')
  add('--seed', type=int, default=0, help='of the places')
  args = parser.parse_args(argv)
  if args.frames < 2 or args.points < 1 or min(args.size) < 8:
    parser.error('want --frames from 2, --points from 1 and --size from 8')
  try:
    video = stream.VideoStream(args.video)
    chunk = next(video.chunks(args.frames, size=tuple(args.size)))
    frames = chunk.frames[: chunk.count]
    model, params = tracker.load_model(args.weights)
    windows = offline.Windows(model, params, args.size)
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  starts = points.choose(
    'random',
    num_points=args.points,
    frame=0,
    seed=args.seed,
    size=tuple(args.size),
    num_frames=1,
  )[:, :0:-1]
  trackers = {
    'model': windows.clip,
    'patch correlation': _baseline(baselines.patch_correlation),
    'points at rest': _baseline(baselines.at_rest),
  }
  print(f'{args.video}: {len(frames)} frames, {len(starts)} points')
  print(f'{"":18}{"visible":>9}{"moved":>9}{"returned":>10}{"within 8":>10}')
  for name, track in trackers.items():
    cycle = measure(track, frames, starts)
    print(
      f'{name:18}{cycle.visible:9.0%}{cycle.moved:9.1f}{cycle.returned:10.1f}'
      f'{cycle.near:10.0%}',
      flush=True,
    )


if __name__ == '__main__':
  main()
