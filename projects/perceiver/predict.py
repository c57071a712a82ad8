"""What Perceivers make of one's own images, videos and texts.

One function for each task, for `config.predict.factory`. All go through the
input once, chunk by chunk.
"""

import collections
import os

import jax
import jax.numpy as jnp
import numpy as np

from projects.perceiver.data import images, texts
from vidscenic import config_checks
from vidscenic.data import audio, containers, resize, soundtrack
from vidscenic.data.datasets import class_lists, flow_files
from vidscenic.tools import predict as predict_lib
from vidscenic.viz import colors

_SOUND_RATE = 48_000
# Class lists by the number of classes, for models that name none.
_LISTS = {1000: 'imagenet', 700: 'kinetics700', 101: 'ucf101'}


def classify(model, video, out, *, k=5, classes=''):
  """The most likely classes of an image, or of every clip of a video.

  Writes
    top.csv: frame, seconds, rank, class, name and probability,
    summary.csv: the same for the mean over the video,
    results.npz: `times` and `probabilities` [clips, classes].

  Pictures are cut and resized as in the published evaluation.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with a `Classification` task.
    video: `vidscenic.data.stream.VideoStream`; an image is a video too.
    out: `vidscenic.tools.outputs.Outputs`.
    k: number of classes to list.
    classes: of `class_lists`; '': by the number of classes, else numbers.

  Raises:
    UsageError: no such class list, or one of another length.
  """
  _check_count(k)
  task = model.task
  names = _class_names(classes, task.num_classes)
  length, *size = task.clip
  predict = _program(model, 'probabilities')
  header = ('frame', 'seconds', 'rank', 'class', 'name', 'probability')
  top, left, height, width = images.center_box((video.height, video.width))
  total, count = 0.0, 0
  for chunk in video.chunks(length):
    frames = chunk.frames[:, top : top + height, left : left + width]
    frames = resize.resize_frames(
      np.ascontiguousarray(frames), tuple(size), method='bicubic'
    )
    probabilities = predict({'video': frames[None]}, chunk.first)[0]
    total, count = total + probabilities.astype(np.float64), count + 1
    out.arrays('times', chunk.times[:1])
    out.arrays('probabilities', probabilities[None])
    out.table(
      'top',
      header,
      (
        (chunk.first, chunk.times[0], *row)
        for row in _best(probabilities, names, k)
      ),
    )
  out.table('summary', header[2:], _best(total / count, names, k))


def _check_count(k):
  if not isinstance(k, int) or k < 1:
    raise predict_lib.UsageError(f'--option=k={k}: want a number from 1')


def _class_names(classes, count):
  classes = classes or _LISTS.get(count, '')
  if not classes:
    return tuple(str(i) for i in range(count))
  if classes not in class_lists.FILES:
    raise predict_lib.UsageError(
      config_checks.unknown(
        f'--option=classes={classes}', classes, class_lists.FILES
      )
    )
  names = class_lists.names(classes)
  if len(names) != count:
    raise predict_lib.UsageError(
      f'--option=classes={classes} has {len(names)} classes, the model {count}:'
      ' leave it out, or name the classes that the model was trained on'
    )
  return names


def _best(probabilities, names, k):
  """(rank, class, name, probability) of the k best."""
  order = np.argsort(-probabilities, kind='stable')[:k]
  for rank, number in enumerate(order, 1):
    yield rank, int(number), names[number], float(probabilities[number])


def optical_flow(model, video, out, *, files=True, largest=0.0):
  """Optical flow from every frame to the next, at the video's own size.

  Writes
    flow.mp4: flow in colours (`viz.colors.flow_colors`),
    flow_000000.flo, ...: flow in pixels, a file for each pair, if files is on,
    motion.csv: mean and greatest length of the flow of every frame.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with an `OpticalFlow` task.
    video: `vidscenic.data.stream.VideoStream`, at least as large as a patch.
    out: `vidscenic.tools.outputs.Outputs`.
    files: write .flo files.
    largest: length in pixels that has full colour; 0: 3 % of the diagonal,
      the same for all frames.

  Raises:
    VideoError: a video smaller than a patch, or of a single frame.
  """
  size = (video.height, video.width)
  try:
    model.task.corners(size)
  except ValueError as error:
    raise containers.VideoError(video.path, str(error)) from error
  if video.num_frames < 2:
    raise containers.VideoError(
      video.path, 'has one frame; flow needs two: give a video'
    )
  largest = largest or 0.03 * float(np.hypot(*size))
  predict = _program(model, 'flow')
  for chunk in video.chunks(2, hop=1):
    flow = predict({'video': chunk.frames[None]}, chunk.first)[0, 0]
    length = np.hypot(flow[..., 0], flow[..., 1])
    out.frames('flow', colors.flow_colors(flow, largest=largest)[None])
    out.table(
      'motion',
      ('frame', 'seconds', 'mean', 'greatest'),
      [(chunk.first, chunk.times[0], length.mean(), length.max())],
    )
    if files:
      flow_files.write_flo(out.file(f'flow_{chunk.first:06d}.flo'), flow)


def reconstruct(model, video, out, *, k=5, classes=''):
  """A video with sound through the latents and back; the label is a guess.

  Writes
    reconstruction.mp4: pictures and sound as decoded, at the model's size,
    errors.csv: mean absolute error of pixels and samples of every clip,
    top.csv: the most likely classes of every clip.

  The frames are taken as they are; the published model has seen 25 per second.
  A video without sound is read as a silent one, as in training, and its
  reconstruction has no sound either.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with an `AudioVideo` task.
    video: `vidscenic.data.stream.VideoStream`.
    out: `vidscenic.tools.outputs.Outputs`.
    k, classes: as in `classify`.

  Raises:
    UsageError: as `classify`.
  """
  _check_count(k)
  task = model.task
  length, *size = task.clip
  names = _class_names(classes, task.num_classes)
  predict = _program(model, 'image', 'audio', 'probabilities')
  rate = round(task.num_samples * video.fps / length)
  # Whatever rate the model has, the file gets one that players know.
  stretch = _SOUND_RATE / rate
  # The encoder of sound wants to be ahead of that of pictures: a clip waits
  # until the sound of the next one is there.
  pieces, waiting = collections.deque(), None
  sound = soundtrack.encoded(_drained(pieces), _SOUND_RATE)
  sound = sound if video.has_audio else None
  for chunk in video.chunks(length):
    frames = _square(chunk.frames, size)
    heard = np.zeros((task.num_samples, 1), np.float32)
    if video.has_audio:
      begin = float(chunk.times[0])
      heard = audio.read_audio(
        video.path,
        begin,
        begin + task.num_samples / rate,
        rate,
        origin_s=video.start,
      )[: task.num_samples]
    batch = {'video': frames[None], 'audio': heard[None]}
    results = predict(batch, chunk.first)
    image, samples, probabilities = (result[0] for result in results)
    errors = [np.abs(image - frames / 255.0)[: chunk.count].mean(), '']
    if video.has_audio:
      kept = round(task.num_samples * chunk.count / length)
      pieces.append(_resampled(samples[:kept, 0], stretch))
      errors[1] = float(np.abs(samples - heard)[:kept].mean())
    if waiting is not None:
      out.frames('reconstruction', waiting, sound=sound)
    waiting = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    waiting = waiting[: chunk.count]
    out.table(
      'errors',
      ('frame', 'seconds', 'l1_image', 'l1_audio'),
      [(chunk.first, chunk.times[0], *errors)],
    )
    out.table(
      'top',
      ('frame', 'seconds', 'rank', 'class', 'name', 'probability'),
      (
        (chunk.first, chunk.times[0], *row)
        for row in _best(probabilities, names, k)
      ),
    )
  out.frames('reconstruction', waiting, sound=sound)


def _resampled(samples, factor):
  """float[S] -> float[round(S * factor)], linear between samples."""
  places = np.arange(round(len(samples) * factor)) / factor
  values = np.interp(places, np.arange(len(samples)), samples)
  return np.clip(values, -1, 1)


def _drained(pieces):
  """What is in a queue, for as long as it is not empty."""
  while pieces:
    yield pieces.popleft()


def _square(frames, size):
  """The middle of the frames with the shape of size, resized to it."""
  height, width = frames.shape[1:3]
  scale = min(height / size[0], width / size[1])
  rows, columns = (max(round(n * scale), 1) for n in size)
  top, left = (height - rows) // 2, (width - columns) // 2
  frames = frames[:, top : top + rows, left : left + columns]
  return resize.resize_frames(
    np.ascontiguousarray(frames), tuple(size), method='bilinear'
  )


class TextInput:
  """A text file as the prediction frame wants its inputs.

  Args:
    path: of the file.

  Raises:
    UsageError: it cannot be read, or is empty.
  """

  def __init__(self, path: str):
    self.path = os.fspath(path)
    self.name = os.path.splitext(os.path.basename(self.path))[0]
    self.damage = ''
    self.num_frames = 0
    self.progress = lambda done, total: None
    try:
      with open(self.path, 'rb') as f:
        self.text = f.read()
    except OSError as error:
      raise predict_lib.UsageError(
        f'--input: {self.path}: {containers.describe(error)}'
      ) from error
    if not self.text:
      raise predict_lib.UsageError(
        f'--input: {self.path} is an empty text file: want text with blanks'
      )


def fill_bytes(model, text, out, *, blank='_', k=5):
  """Fills the blanks of a text file, one byte for each.

  Writes
    filled.txt: the text with the most likely byte in place of every blank,
    candidates.csv: place, rank, byte and probability of the best for each.

  Longer texts are cut into pieces of the model's length.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with a `MaskedBytes` task.
    text: `TextInput`.
    out: `vidscenic.tools.outputs.Outputs`.
    blank: the character that stands for a byte to fill in.
    k: number of candidates to list.

  Raises:
    UsageError: a video, or a blank that is not one byte.
    VideoError: a text without blanks.
  """
  _check_count(k)
  if not isinstance(text, TextInput):
    raise predict_lib.UsageError(
      f'--input: {text.path} is no text file: want a .txt file with blanks'
    )
  blank = str(blank)  # --option=blank=0 gives a number
  if len(blank.encode()) != 1:
    raise predict_lib.UsageError(
      f'--option=blank={blank}: want one ASCII character'
    )
  hidden = int(texts.to_ids(blank)[0])
  ids = texts.to_ids(text.text)
  if not (ids == hidden).any():
    raise containers.VideoError(
      text.path,
      f'has no blank {blank!r} to fill in; --option=blank=... sets another',
    )
  ids = np.where(ids == hidden, texts.MASK, ids)
  predict = _program(model, 'logits', 'ids')
  length = model.task.max_length
  text.progress(0, len(ids))
  with open(out.file('filled.txt'), 'wb') as file:
    for start in range(0, len(ids), length):
      piece = ids[start : start + length]
      padded = np.full(length, texts.PAD, np.int32)
      padded[: len(piece)] = piece
      logits, filled = predict({'ids': padded[None]}, start)
      file.write(texts.to_bytes(filled[0, : len(piece)]))
      out.table(
        'candidates',
        ('place', 'rank', 'byte', 'text', 'probability'),
        _candidates(logits[0], np.flatnonzero(piece == texts.MASK), start, k),
      )
      text.progress(start + len(piece), len(ids))


fill_bytes.open_text = TextInput


def _candidates(logits, places, start, k):
  for place in places:
    scores = logits[place, texts.NUM_SPECIAL :].astype(np.float64)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    for rank, byte in enumerate(np.argsort(-weights, kind='stable')[:k], 1):
      shown = chr(byte) if 32 <= byte < 127 else ''
      yield start + int(place), rank, int(byte), shown, float(weights[byte])


def _program(model, *fields):
  """Compiled (batch of one, its number) -> NumPy arrays of the fields."""
  task = model.task

  @jax.jit
  def run(params, model_state, batch, row):
    batch = {**batch, 'mask': jnp.ones(1, bool)}
    outputs, _ = task.predict(params, model_state, batch, model.context([row]))
    return [outputs[name] for name in fields]

  def predict(batch, row):
    results = jax.device_get(run(model.params, model.model_state, batch, row))
    return results if len(fields) > 1 else results[0]

  return predict
