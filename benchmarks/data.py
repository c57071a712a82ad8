"""Where examples come from: synthetic videos, the decoder, the loader.

  python -m benchmarks.data
  python -m benchmarks.data --only loader --threads 2 --workers 2

The decoder and the loader read H.264 files that the benchmark writes into a
temporary folder: 10 s of synthetic video at 25 frames per second, with one
keyframe in all and with one every 32 frames. Reference figures were measured
on another machine with 2 cores; CPU time compares better than time on the
clock where others use the machine too.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import loader, report, timing
from vidscenic.data import decode, synthetic, video_index, writer

# (frames, side, with flow): examples per second on one core of the reference.
_SYNTHETIC = {
  (24, 64, False): 46.0,
  (24, 128, False): 14.0,
  (24, 256, False): 3.8,
  (24, 64, True): 31.0,
  (24, 128, True): 9.0,
  (24, 256, True): 1.9,
}
# (what, keyframe distance): CPU ms of the reference.
_DECODER = {('clip', 250): 24.0, ('clip', 32): 10.0, ('whole', 250): 51.0}
_GOPS = (250, 32)
_PARTS = ('synthetic', 'decoder', 'loader')


def parser():
  """The command line."""
  command = report.parser(
    'Rates of the synthetic source, of the decoder, and of the loader against '
    'a plain thread pool on the same files.'
  )
  add = command.add_argument
  add('--only', nargs='+', choices=_PARTS, default=_PARTS, help='parts to run')
  add('--repeats', type=int, default=5, help='of every measurement')
  add('--sides', type=int, nargs='+', default=[64, 128, 256], help='pixels')
  add('--frames', type=int, default=24, help='of a synthetic clip')
  add('--tracks', type=int, default=256, help='of a synthetic clip')
  add('--examples', type=int, default=4, help='synthetic clips per repeat')
  add('--files', type=int, default=8, help='video files')
  add('--file_frames', type=int, default=250, help='frames of a file')
  add('--file_size', type=int, nargs=2, default=[240, 320], help='pixels')
  add('--clip_frames', type=int, default=16, help='frames decoded per clip')
  add('--stride', type=int, default=2, help='frames from one to the next')
  add('--crop', type=int, default=224, help='side of the loader clips')
  add('--batch_size', type=int, default=8, help='clips per batch')
  add('--batches', type=int, default=16, help='batches per repeat')
  add('--threads', type=int, default=2, help='of loader and plain pool')
  add('--workers', type=int, nargs='*', default=[], help='also with processes')
  return command


def measure(args) -> list[report.Table]:
  """Runs the chosen parts."""
  tables = []
  count = 2 * len(args.sides) * ('synthetic' in args.only)
  count += (1 + len(_GOPS)) * ('decoder' in args.only)
  count += (1 + len(_GOPS)) * ('loader' in args.only)
  with (
    report.Progress(count, 'data') as progress,
    tempfile.TemporaryDirectory(prefix='vidscenic-benchmark-') as folder,
  ):
    if 'synthetic' in args.only:
      tables.append(measure_synthetic(args, progress))
    folders = {gop: pathlib.Path(folder) / f'gop{gop}' for gop in _GOPS}
    if {'decoder', 'loader'} & set(args.only):
      progress(f'writing {len(_GOPS)} x {args.files} files')
      write_videos(
        folders,
        count=args.files,
        num_frames=args.file_frames,
        size=tuple(args.file_size),
      )
    if 'decoder' in args.only:
      tables.append(measure_decoder(args, folders, progress))
    if 'loader' in args.only:
      tables.append(loader.measure(args, folders, progress))
  return tables


def measure_synthetic(args, progress: Callable[[str], None]) -> report.Table:
  """Examples per second on one core, with tracks, without and with flow."""
  rows = []
  for flow in (False, True):
    for side in args.sides:
      progress(f'synthetic {args.frames}x{side}x{side}, flow {flow}')
      source = synthetic.SyntheticVideos(
        num_frames=args.frames,
        height=side,
        width=side,
        num_tracks=args.tracks,
        flow=flow,
      )

      def make(source=source):
        for index in range(args.examples):
          source[index]

      wall, cpu = _time_both(make, args.repeats)
      rows.append(
        {
          'clip': f'{args.frames}x{side}x{side}',
          'flow': 'both' if flow else 'none',
          'clips_per_s': args.examples / wall.median,
          'spread_percent': 100 * wall.spread,
          'clips_per_cpu_s': args.examples / cpu.median,
          'reference_per_s': _SYNTHETIC.get((args.frames, side, flow)),
        }
      )
  return report.Table(
    'synthetic',
    f'synthetic source: {args.tracks} tracks, one thread',
    rows,
  )


def write_videos(
  folders: dict[int, pathlib.Path],
  *,
  count: int,
  num_frames: int,
  size: tuple[int, int],
) -> None:
  """Writes the same videos with several keyframe distances.

  A quarter of the frames is rendered and played forth and back, without a cut
  that would make the encoder set a keyframe.

  Args:
    folders: {keyframe distance: where to write}.
    count: files per folder.
    num_frames: of a file.
    size: (height, width).
  """
  rendered = max(2, num_frames // 4)
  source = synthetic.SyntheticVideos(
    num_frames=rendered,
    height=size[0],
    width=size[1],
    difficulty='easy',  # compresses like ordinary video
  )
  there_and_back = [*range(rendered), *range(rendered - 2, 0, -1)]
  order = np.resize(there_and_back, num_frames)
  for folder in folders.values():
    folder.mkdir(parents=True)
  for i in range(count):
    video = source[i]['video']
    for gop, folder in folders.items():
      writer.write_video(
        folder / f'{i:03}.mp4', video[order], 25, crf=23, keyframe_every=gop
      )


def measure_decoder(
  args, folders: dict[int, pathlib.Path], progress: Callable[[str], None]
) -> report.Table:
  """Random clips and whole files, one thread."""
  rows = []
  span = (args.clip_frames - 1) * args.stride + 1
  for gop, folder in folders.items():
    progress(f'decoder, keyframe every {gop} frames')
    files = sorted(folder.iterdir())
    starts = np.random.default_rng(0).integers(
      max(args.file_frames - span, 0) + 1, size=len(files)
    )
    clip = np.minimum(
      np.arange(args.clip_frames) * args.stride, args.file_frames - 1
    )
    indices = [video_index.index_video(file) for file in files]
    requests = {
      'clip': [np.minimum(s + clip, args.file_frames - 1) for s in starts],
      'whole': [np.arange(args.file_frames)] * len(files),
    }
    for what, wanted in requests.items():

      def read(files=files, indices=indices, wanted=wanted):
        for file, index, numbers in zip(files, indices, wanted, strict=True):
          decode.read_frames(file, numbers, index)

      wall, cpu = _time_both(read, args.repeats)
      rows.append(
        {
          'read': what,
          'frames': len(wanted[0]),
          'keyframe_every': gop,
          'keyframes': int(np.mean([len(i.key_pts) for i in indices])),
          'file_kb': sum(f.stat().st_size for f in files) / len(files) / 1e3,
          'ms': 1e3 * wall.median / len(files),
          'spread_percent': 100 * wall.spread,
          'cpu_ms': 1e3 * cpu.median / len(files),
          'reference_cpu_ms': _DECODER.get((what, gop)),
        }
      )
  height, width = args.file_size
  return report.Table(
    'decoder',
    f'decoder: {width}x{height} H.264, one thread; clip = {args.clip_frames} '
    f'frames, stride {args.stride}, random start',
    rows,
  )


def _time_both(call, repeats):
  """Seconds on the clock and of this process's CPU time, after a warm-up."""
  call()
  wall, cpu = [], []
  for _ in range(repeats):
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    wall.append(time.perf_counter() - start)
    cpu.append(time.process_time() - start_cpu)
  return timing.summarize(wall), timing.summarize(cpu)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('data', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
