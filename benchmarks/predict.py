r"""Peak memory of predictions: does it grow with the length of the video?

  python -m benchmarks.predict
  python -m benchmarks.predict --seconds 10 3600 --size 480 640
  python -m benchmarks.predict --config=projects/rvm/configs/synthetic_tiny.py \
    --option points=points.txt
  python -m benchmarks.predict --config=projects/tapir/configs/predict.py \
    --option online=True --seconds 120 --samples 20

Writes synthetic videos with sound into a temporary folder and runs a project's
prediction function on each, with fresh weights and in a process of its own. The
times include compiling. Peak memory is that of the process on the host; with
--samples there is also a table of its memory over time.
"""

import multiprocessing
import os
import pathlib
import runpy
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from benchmarks import report, timing
from vidscenic import config as vc
from vidscenic.data import soundtrack, stream, writer
from vidscenic.tools import predict as predict_lib

# Peak memory of the longest video over that of the shortest, at most.
MAX_GROWTH = 1.1
_SOUND_RATE = 48_000


def parser():
  """The command line."""
  command = report.parser('Peak memory of predictions by length of the video.')
  add = command.add_argument
  add('--config', default='configs/smoke.py', help='whose predict.factory runs')
  add('--seconds', type=int, nargs='+', default=[10, 600], help='of the videos')
  add('--size', type=int, nargs=2, default=[96, 128], help='height and width')
  add('--fps', type=int, default=25, help='frames per second')
  add(
    '--option',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='argument of the prediction function, as of main.py; can be repeated',
  )
  add(
    '--samples',
    type=int,
    default=0,
    help='rows of memory over time for each pass over a video (Linux only)',
  )
  return command


def measure(args) -> list[report.Table]:
  """One row per length."""
  rows, samples, options = [], [], predict_lib.parse_options(args.option)
  spawn = multiprocessing.get_context('spawn')
  with (
    report.Progress(2 * len(args.seconds), 'predict') as progress,
    tempfile.TemporaryDirectory(prefix='vidscenic-benchmark-') as folder,
    futures.ProcessPoolExecutor(
      1, mp_context=spawn, max_tasks_per_child=1
    ) as processes,
  ):
    for seconds in sorted(args.seconds):
      path = pathlib.Path(folder) / f'{seconds}.mp4'
      progress(f'writing {seconds} s of video')
      write_video(path, seconds, args.fps, args.size)
      progress(f'predicting {seconds} s of video')
      row, seen = processes.submit(
        predict,
        args.config,
        path,
        pathlib.Path(folder) / 'out',
        options,
        args.samples,
      ).result()
      rows.append(row)
      samples += seen
  tables = [_peaks(args, rows)]
  return tables + ([_over_time(samples)] if samples else [])


def _peaks(args, rows):
  growth = rows[-1]['peak_mib'] / rows[0]['peak_mib']
  verdict = 'met' if growth <= MAX_GROWTH else 'MISSED'
  return report.Table(
    'predict',
    f'predict: {args.config} on {args.size[0]}x{args.size[1]} pixels at '
    f'{args.fps} frames per second, fresh weights',
    rows,
    (
      f'peak of the last row over the first: {growth:.3f}, at most '
      f'{MAX_GROWTH} ({verdict})',
    ),
  )


def _over_time(samples):
  """Judges the last pass over the longest video, after its first quarter."""
  end = samples[-1]
  same = [
    s
    for s in samples
    if (s['video_s'], s['pass']) == (end['video_s'], end['pass'])
  ]
  settled = same[len(same) // 4]['resident_mib']
  growth = end['resident_mib'] - settled
  return report.Table(
    'memory',
    'memory of the process over time',
    samples,
    (f'last three quarters of the last pass: {growth:+.1f} MiB',),
  )


def write_video(
  path: pathlib.Path, seconds: int, fps: int, size: Sequence[int]
) -> None:
  """A texture that moves, and a tone."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (*(-(-n // 8) for n in size), 3), np.uint8)
  texture = coarse.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]]
  sound = soundtrack.encoded(_tone(seconds), _SOUND_RATE)
  with writer.VideoWriter(path, fps, sound=sound, preset='veryfast') as output:
    for number in range(seconds * fps):
      output.write(np.roll(texture, number, axis=1))


def _tone(seconds: int) -> Iterator[np.ndarray]:
  second = np.arange(_SOUND_RATE) / _SOUND_RATE
  for _ in range(seconds):
    yield 0.5 * np.sin(2 * np.pi * 440 * second)


def predict(
  config_file: str,
  path: pathlib.Path,
  folder: pathlib.Path,
  options: Mapping[str, Any],
  samples: int = 0,
) -> tuple[dict, list[dict]]:
  """Runs the prediction function in this process: (a row, rows over time)."""
  import jax  # here, in the process that is measured

  from vidscenic.tools import loaded

  start = time.perf_counter()
  file, colon, argument = config_file.partition(':')
  get_config = runpy.run_path(file)['get_config']
  config = get_config(argument) if colon else get_config()
  task = vc.build(config.task.factory, **config.task.kwargs)
  spec = task.batch_spec()
  params, model_state = jax.jit(
    lambda: task.init(
      jax.random.key(0),
      jax.tree.map(lambda s: jax.numpy.zeros((1, *s.shape), s.dtype), spec),
    )
  )()
  video = stream.VideoStream(path)
  function = vc.prepare(
    config.predict.factory, 3, **{**config.predict.kwargs, **options}
  )
  video_s = round(float(video.times[-1]) + 1 / video.fps)
  seen: list[dict] = []
  if samples:
    function = _watched(function, samples, video_s, seen)
  written = predict_lib.predict_video(
    function,
    loaded.Loaded(task, params, model_state, step=0),
    video,
    folder / video.name,
  )
  seconds = time.perf_counter() - start
  row = {
    'video_s': video_s,
    'frames': video.num_frames,
    'frames_per_s': video.num_frames / seconds,
    'peak_mib': timing.peak_process_bytes() / 2**20,
    'written_mib': sum(file.stat().st_size for file in written) / 2**20,
  }
  return row, seen


def _watched(function, samples, video_s, seen):
  """The function; while it runs, rows are added to `seen`."""
  start = time.perf_counter()

  def watched(model, video, out):
    show, number, due = video.progress, 0, 0.0

    def progress(done, total):
      nonlocal number, due
      show(done, total)
      if not done:
        number, due = number + 1, 0.0
      elif done >= due:
        due += total / samples
        seen.append(
          {
            'video_s': video_s,
            'pass': number,
            'frame': done,
            'seconds': time.perf_counter() - start,
            'resident_mib': _resident_bytes() / 2**20,
          }
        )

    video.progress = progress
    function(model, video, out)

  return watched


def _resident_bytes():
  """Memory of this process now."""
  pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
  return int(pages) * os.sysconf('SC_PAGE_SIZE')


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('predict', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
