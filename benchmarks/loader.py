"""The training pipeline against a plain thread pool on the same files.

The pool is the least code that does the job: it knows neither seeds nor
resuming nor processes nor damaged files. It sets the rate that the pipeline is
measured by, in turns with it, so that both meet the same machine.
"""

import collections
import functools
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np

from benchmarks import report, timing
from vidscenic import config as vc
from vidscenic.data import decode, pipeline

MIN_RATIO = 0.85
_GOLDEN_RATIO = 0.6180339887
# (threads, workers, keyframe distance): clips/s of the reference.
_POOL_REFERENCE = {(2, 0, 32): 169.0}
_REFERENCE = {(2, 0, 32): 151.0, (2, 2, 32): 118.0}


def measure(
  args, folders: dict[int, pathlib.Path], progress: Callable[[str], None]
) -> report.Table:
  """Batches of randomly cropped and mirrored clips: pool, threads, processes.

  Args:
    args: of `benchmarks.data`.
    folders: {keyframe distance: folder of videos}.
    progress: is told what begins.
  """
  rows = []
  for gop, folder in folders.items():
    progress(f'loader, keyframe every {gop} frames')
    # (name, processes, how to start it)
    loaders = [('plain pool', 0, functools.partial(plain_pool, folder, args))]
    for workers in (0, *args.workers):
      name = f'pipeline, {workers} processes' if workers else 'pipeline'
      make = functools.partial(_pipeline, folder, args, workers)
      loaders.append((name, workers, make))
    samples = collections.defaultdict(list)
    for repeat in range(args.repeats):
      for name, workers, make in loaders:
        sample = _time_batches(functools.partial(make, repeat), workers, args)
        samples[name].append(sample)
    pool = samples['plain pool']
    for name, workers, _ in loaders:
      references = _POOL_REFERENCE if name == 'plain pool' else _REFERENCE
      rows.append(
        {
          'loader': name,
          'keyframe_every': gop,
          **_columns(samples[name], pool, workers, args),
          'reference_per_s': references.get((args.threads, workers, gop)),
        }
      )
  met = all(
    r['ratio_to_pool'] >= MIN_RATIO for r in rows if r['loader'] == 'pipeline'
  )
  return report.Table(
    'loader',
    f'loader: batches of {args.batch_size} clips of {args.clip_frames}x'
    f'{args.crop}x{args.crop}, random crop and flip, {args.threads} threads',
    rows,
    (
      f'ratio of the pipeline to the pool, floor: {MIN_RATIO} '
      f'({"met" if met else "MISSED"})',
    ),
  )


def plain_pool(
  folder: pathlib.Path, args, seed: int = 0
) -> Iterator[dict[str, np.ndarray]]:
  """Endless batches: threads make clips, the caller's thread stacks them."""
  files = sorted(folder.iterdir())
  side = args.crop

  def load(number):
    rng = np.random.default_rng([seed, number])
    file = files[number % len(files)]
    index = decode.index_video(file)
    span = (args.clip_frames - 1) * args.stride
    # Evenly spread: a clip costs more the farther it is from a keyframe.
    start = int(number * _GOLDEN_RATIO % 1 * max(index.num_frames - span, 1))
    numbers = start + np.arange(args.clip_frames) * args.stride
    video = decode.read_frames(file, numbers % index.num_frames, index)
    top, left = (rng.integers(n - side + 1) for n in video.shape[1:3])
    video = video[:, top : top + side, left : left + side]
    return video[:, :, ::-1] if rng.random() < 0.5 else video

  # As many clips under way as the pipeline has: a batch for each thread, and
  # the one that is waited for.
  ahead = (args.threads + 1) * args.batch_size
  with futures.ThreadPoolExecutor(args.threads) as pool:
    try:
      clips = collections.deque(pool.submit(load, i) for i in range(ahead))
      number = ahead
      while True:
        batch = []
        for _ in range(args.batch_size):
          batch.append(clips.popleft().result())
          clips.append(pool.submit(load, number))
          number += 1
        yield {'video': np.stack(batch)}
    finally:
      pool.shutdown(cancel_futures=True)


class _Sample(NamedTuple):
  """Seconds of the timed batches on clock and CPU, and to the first batch."""

  wall: float
  cpu: float
  first: float


def _pipeline(folder, args, workers, seed):
  spec = vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': os.fspath(folder)},
    transform_kwargs={
      'num_frames': args.clip_frames,
      'stride': args.stride,
      'size': (args.crop, args.crop),
      'crop': 'random',
      'short_side': min(args.file_size),
    },
    num_threads=args.threads,
    num_workers=workers,
  )
  return pipeline.make_train_iter(spec, batch_size=args.batch_size, seed=seed)


def _columns(samples, pool, workers, args):
  clips = args.batches * args.batch_size
  rate = timing.summarize([clips / s.wall for s in samples])
  ratios = [p.wall / s.wall for p, s in zip(pool, samples, strict=True)]
  cpu = [1e3 * s.cpu / clips for s in samples]
  return {
    'clips_per_s': rate.median,
    'spread_percent': 100 * rate.spread,
    'ratio_to_pool': float(np.median(ratios)),
    # The time of other processes is not ours to read.
    'cpu_ms_per_clip': None if workers else float(np.median(cpu)),
    'first_batch_s': float(np.median([s.first for s in samples])),
  }


def _time_batches(make, workers, args):
  before = set(threading.enumerate())
  begin = time.perf_counter()
  batches = make()
  try:
    next(batches)
    first = time.perf_counter() - begin
    # Whatever was read ahead during the start must not count.
    for _ in range(2 * args.threads):
      next(batches)
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(args.batches):
      batch = next(batches)
    wall = time.perf_counter() - start
    cpu = time.process_time() - start_cpu
  finally:
    batches.close()
    # Threads that are in the middle of a batch finish it: not during the
    # next measurement. (Those that serve processes stay.)
    for thread in () if workers else set(threading.enumerate()) - before:
      thread.join()
  want = (args.batch_size, args.clip_frames, args.crop, args.crop, 3)
  if batch['video'].shape != want:
    raise ValueError(f'got clips {batch["video"].shape}, expected {want}')
  return _Sample(wall, cpu, first)
