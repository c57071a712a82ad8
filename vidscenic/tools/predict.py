"""Runs a model on one's own videos: `main.py --mode=predict`.

A project plugs in one function, named by `config.predict.factory`:

  def features(model, video, out, **options):
    for chunk in video.chunks(16, size=(256, 256)):
      ...
      out.frames('features', pictures)

It is plain code: it goes through the video as often as it likes, keeps what it
carries from chunk to chunk, and writes its results as they come. See
`loaded.Loaded`, `stream.VideoStream` and `outputs.Outputs` for the three. A
function with an attribute `open_text`, called with a path, gets what that
returns for files that end in .txt.
"""

import ast
import contextlib
import glob
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from absl import logging

from vidscenic import config as vc
from vidscenic.data import containers, stream
from vidscenic.tools import outputs, progress


class UsageError(ValueError):
  """A wrong argument or field; the message is one line for a person."""


# What a user can put right; anything else is a mistake in some code.
ERRORS = (UsageError, containers.VideoError, OSError)


def predict(
  config: Any,
  workdir: str,
  inputs: str,
  output: str,
  *,
  weights: str = '',
  step: int | None = None,
  overwrite: bool = False,
  fps: float = 25.0,
  options: Mapping[str, Any] | None = None,
) -> list[pathlib.Path]:
  """Calls `config.predict.factory` for every video.

  Everything that can be wrong with the arguments is found before a model is
  loaded or a file is written.

  Args:
    config: a finalized config; None: that of the run or the published weights.
    workdir: of the run whose checkpoint is used.
    inputs: video files, folders of pictures, patterns with * or ?, separated by
      commas.
    output: folder; results go to a subfolder of it for each video.
    weights: published name or file, in place of a workdir; without either,
      what `config.init_from` names.
    step: the checkpoint of this step, not the newest.
    overwrite: replace results.
    fps: frames per second of folders of pictures.
    options: arguments of the prediction function, over `predict.kwargs`.

  Returns:
    The files that were written.

  Raises:
    UsageError, VideoError, OSError: one line that says what to change.
  """
  if not workdir and not weights and config is not None:
    weights = config.init_from.path
  if bool(workdir) == bool(weights):
    raise UsageError(
      'predict needs weights: pass either --workdir=FOLDER of a run or '
      '--weights=NAME or FILE'
    )
  if weights and step is not None:
    raise UsageError('--step chooses a checkpoint of --workdir: leave it out')
  if config is None:
    config = _find_config(workdir, weights)
  if not config.predict.factory:
    raise UsageError(
      'config.predict.factory is empty: this experiment does not say how to '
      "predict; want 'package.module:function'"
    )
  factory = config.predict.factory
  videos = _open_videos(inputs, output, fps, overwrite, factory)
  try:
    function = vc.prepare(
      config.predict.factory,
      3,
      field='predict.factory',
      **{**config.predict.kwargs, **(options or {})},
    )
  except ValueError as error:
    raise UsageError(str(error)) from error
  # jax and what needs it is imported here: refusals stay fast.
  from vidscenic.tools import load, loaded

  try:
    if weights:
      model = load.load_with_state(weights, config=config)
    else:
      model = loaded.from_workdir(config, workdir, step)
  except ValueError as error:
    flag = 'weights' if weights else 'workdir'
    raise UsageError(f'--{flag}: {error}') from error
  written = []
  with _compiled_once() if len(videos) > 1 else contextlib.nullcontext():
    for folder, video in videos.items():
      written += predict_video(
        function, model, video, folder, overwrite=overwrite
      )
  return written


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
  """{'NAME': value} of ['NAME=VALUE', ...].

  A value is a Python literal, such as 3, True or (1,2), else a string.

  Raises:
    UsageError: a text without a name or a value.
  """
  options = {}
  for text in texts:
    name, equals, value = text.partition('=')
    if not (name.isidentifier() and equals):
      raise UsageError(f'--option={text}: want NAME=VALUE')
    try:
      options[name] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      options[name] = value
  return options


@contextlib.contextmanager
def _compiled_once():
  """Keeps programs from one video to the next of its size.

  A prediction function makes its programs for every video anew; what XLA made
  of them is found again in jax's cache on disk.
  """
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  if jax.config.jax_compilation_cache_dir is not None:
    yield
    return
  with tempfile.TemporaryDirectory() as folder:
    jax.config.update('jax_compilation_cache_dir', folder)
    compilation_cache.reset_cache()
    try:
      yield
    finally:
      jax.config.update('jax_compilation_cache_dir', None)
      compilation_cache.reset_cache()


def _find_config(workdir, weights):
  from vidscenic.tools import load

  try:
    return load.find_config(workdir, weights)
  except ValueError as error:
    raise UsageError(str(error)) from error


def predict_video(
  function: Callable[..., None],
  model: Any,
  video: stream.VideoStream,
  folder: str | os.PathLike,
  *,
  overwrite: bool = False,
) -> list[pathlib.Path]:
  """Calls a prediction function for one video.

  Args:
    function: function(model, video, out).
    model: a `loaded.Loaded`.
    video: the source; its progress is shown.
    folder: for the results.
    overwrite: replace files there.

  Returns:
    The files that were written.
  """
  start = time.monotonic()
  with (
    _show_progress(video),
    outputs.Outputs(folder, video, overwrite=overwrite) as out,
  ):
    function(model, video, out)
  seconds = time.monotonic() - start
  end = f', damaged from there on: {video.damage}' if video.damage else ''
  logging.info(
    '%s: %d frames in %.1f s%s', video.path, video.num_frames, seconds, end
  )
  if not out.written:
    logging.warning('%s: nothing was written', video.path)
  return out.written


@contextlib.contextmanager
def _show_progress(video):
  """Shows how far each pass over the video is."""
  before, display = video.progress, None

  def show(done, total):
    nonlocal display
    if done:
      display.advance(done - display.done)
      return
    if display is not None:  # of the pass before
      display.close()
    display = progress.Progress(total, 'frames', name=video.name)

  video.progress = show
  try:
    yield
  finally:
    video.progress = before
    if display is not None:
      display.close()


def _open_videos(inputs, output, fps, overwrite, factory):
  """{folder of results: video}."""
  if not output:
    raise UsageError('--output is missing, such as --output=predictions')
  if not fps >= 1e-5:
    raise UsageError(f'--fps={fps}: want 0.00001 or more')
  videos = {}
  for path in _paths(inputs):
    try:
      video = _open(path, fps, factory)
    except containers.VideoError as error:
      raise UsageError(
        f'--input: {error}; want a video file or a folder of pictures'
      ) from error
    folder = os.path.join(os.path.expanduser(output), video.name)
    if folder in videos:
      raise UsageError(
        f'--input: results of {videos[folder].path} and {path} would both go to'
        f' {folder}; predict one after the other, with another --output'
      )
    outputs.check_folder(folder, overwrite=overwrite)
    videos[folder] = video
  return videos


def _open(path, fps, factory):
  """A video, or a text file if the prediction function reads such."""
  if path.lower().endswith('.txt'):
    # Resolved here alone: it may import jax, and refusals should be fast.
    function = vc.resolve(factory, 'predict.factory')
    if hasattr(function, 'open_text'):
      return function.open_text(path)
  return stream.VideoStream(path, fps=fps)


def _paths(inputs):
  if not inputs:
    raise UsageError('--input is missing, such as --input=clip.mp4')
  if os.path.exists(inputs):  # a name that holds a comma
    return [inputs]
  paths = []
  for part in inputs.split(','):
    part = os.path.expanduser(part)
    found = [part] if os.path.exists(part) else sorted(glob.glob(part))
    if not found:
      raise UsageError(f'--input={part}: no such file or folder')
    paths += found
  return paths
