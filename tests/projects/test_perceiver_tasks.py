"""Losses, draws and figures of the Perceivers' tasks; what they predict."""

import csv
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from projects.perceiver import (
  autoencoding_task,
  bytes_task,
  classification_task,
  encoder,
  flow_task,
  predict,
)
from projects.perceiver.data import texts
from tests.parity import quick
from vidscenic import task as task_lib
from vidscenic.data import containers, decode, stream, writer
from vidscenic.data.datasets import class_lists, flow_files
from vidscenic.tools import loaded, outputs
from vidscenic.tools import predict as predict_lib

ENCODER = {
  'num_self_attends_per_block': 1,
  'num_blocks': 1,
  'z_index_dim': 4,
  'num_z_channels': 8,
  'num_self_attend_heads': 2,
}


def context(rows=2, train=True):
  return task_lib.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(rows, dtype=jnp.int32),
    train=train,
  )


def random_params(task):
  rows = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), task.batch_spec()
  )
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), rows)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def flow_of(**options):
  return flow_task.OpticalFlow(
    model={
      'image_size': (16, 16),
      'num_channels': 4,
      'num_bands': 2,
      'rescale_factor': 1.0,
      'encoder': ENCODER | options,
    },
    min_overlap=4,
  )


@functools.cache
def flow():
  task = flow_of()
  return task, random_params(task)


def test_end_point_error_has_a_gradient_where_flow_is_exact():
  zeros = jnp.zeros((3, 2))
  target = jnp.array([[0.0, 0.0], [3.0, 4.0], [np.nan, 0.0]])
  weight = jnp.array([1.0, 1.0, 0.0])

  def loss(flow):
    return flow_task.end_point_error(flow, target, weight=weight)[0]

  value, gradient = jax.value_and_grad(loss)(zeros)
  assert value == 5
  np.testing.assert_allclose(gradient, [[0, 0], [-0.6, -0.8], [0, 0]])


@pytest.fixture(scope='module')
def moving(tmp_path_factory):
  path = tmp_path_factory.mktemp('video') / 'moving.mp4'
  rng = np.random.default_rng(0)
  texture = rng.integers(0, 256, (6, 9, 3), np.uint8).repeat(4, 0).repeat(4, 1)
  frames = np.stack([np.roll(texture, i, axis=1) for i in range(3)])
  writer.write_video(path, frames, 10.0)
  return stream.VideoStream(path)


def test_flow_of_a_video_is_that_of_blended_patches(moving, tmp_path):
  task, params = flow()
  model = loaded.Loaded(task, params, {}, step=0)
  with outputs.Outputs(tmp_path / 'out', moving) as out:
    predict.optical_flow(model, moving, out)
  assert decode.index_video(tmp_path / 'out' / 'flow.mp4').num_frames == 2
  first, known = flow_files.read_flo(tmp_path / 'out' / 'flow_000000.flo')
  assert first.shape == (24, 36, 2) and known.all()
  frames = next(moving.chunks(2)).frames
  run = quick.jit(
    lambda clip: task.predict(params, {}, {'video': clip[None]}, None)[0]
  )
  # Only one patch reaches the corner.
  corner = run(frames[:, :16, :16])['flow'][0, 0]
  np.testing.assert_allclose(first[:8, :12], corner[:8, :12], atol=1e-4)


def test_video_smaller_than_a_patch_is_refused(moving, tmp_path):
  task = flow_task.OpticalFlow(
    model={'name': 'optical_flow', 'image_size': (32, 32)}
  )
  model = loaded.Loaded(task, {}, {}, step=0)
  with pytest.raises(containers.VideoError, match='moving.mp4.*24 pixels'):
    predict.optical_flow(model, moving, None)


def audio_video_of(**options):
  return autoencoding_task.AudioVideo(
    model={
      'num_frames': 4,
      'image_size': (8, 8),
      'num_samples': 3200,
      'num_classes': 3,
      'samples_per_patch': 160,
      'video_bands': 2,
      'video_max_resolution': (4, 2, 2),
      'audio_bands': 2,
      'audio_max_resolution': 20,
      'label_channels': 6,
      'output_channels': 5,
      'encoder': ENCODER | options,
    },
    queries={'image': 6, 'audio': 3},
  )


@functools.cache
def audio_video():
  """(task, random parameters)."""
  task = audio_video_of()
  return task, random_params(task)


def audio_video_batch():
  rng = np.random.default_rng(0)
  return {
    'video': rng.integers(0, 256, (2, 4, 8, 8, 3), np.uint8),
    'audio': rng.uniform(-1, 1, (2, 3200, 1)).astype(np.float32),
    'audio_mask': np.array([True, False]),
    'label': np.array([0, 2], np.int32),
    'mask': np.ones(2, bool),
  }


def test_sound_that_is_missing_counts_nothing_and_is_counted():
  task, params = audio_video()
  run = quick.jit(lambda batch: task.loss(params, {}, batch, context())[:2])
  batch = audio_video_batch()
  terms, figures = run(batch)
  assert float(terms['audio'][1]) == 3 * 160  # one of two rows
  assert float(terms['image'][1]) == 2 * 6 * 3
  assert [float(x) for x in figures['without_sound']] == [1, 2]
  scales = {name: float(term[2]) for name, term in terms.items()}
  assert scales == pytest.approx(autoencoding_task.PUBLISHED_SCALES)


def test_evaluation_stands_beside_the_best_constants():
  task, params = audio_video()
  batch = audio_video_batch()
  figures = quick.jit(
    lambda batch: task.loss(params, {}, batch, context(train=False)).metrics
  )(batch)
  unit = batch['video'] / 255.0
  median = np.median(unit.reshape(2, -1, 3), axis=1)[:, None, None, None]
  total, count = figures['l1_image_median']
  np.testing.assert_allclose(total / count, np.abs(unit - median).mean(), 1e-5)
  total, count = figures['l1_audio_silence']
  np.testing.assert_allclose(
    total / count, np.abs(batch['audio'][0]).mean(), 1e-5
  )


@pytest.mark.parametrize('with_sound', [True, False])
def test_reconstruction_has_sound_if_the_video_has(tmp_path, with_sound):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (10, 24, 32, 3), np.uint8)
  audio = 0.3 * np.sin(np.arange(16_000)) if with_sound else None
  path = tmp_path / 'clip.mp4'
  writer.write_video(path, frames, 10.0, audio=audio, audio_rate=16_000)
  video = stream.VideoStream(path)
  model = loaded.Loaded(*audio_video(), {}, step=0)
  with outputs.Outputs(tmp_path / 'out', video) as out:
    predict.reconstruct(model, video, out, k=2)
  index = decode.index_video(tmp_path / 'out' / 'reconstruction.mp4')
  assert index.num_frames == 10
  assert index.has_audio == with_sound
  with open(tmp_path / 'out' / 'errors.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  assert [row['frame'] for row in rows] == ['0', '4', '8']
  assert all(bool(row['l1_audio']) == with_sound for row in rows)


def test_labels_outside_are_named():
  batch = audio_video_batch()
  batch['label'][1] = 3
  with pytest.raises(ValueError, match=r'label 3 .* outside \[0, 3\)'):
    audio_video()[0].check_batch(batch)


def text_task(mask_prob=0.15, **options):
  return bytes_task.MaskedBytes(
    model={
      'max_seq_len': 24,
      'num_channels': 8,
      'encoder': ENCODER | options,
      'decoder': {'num_heads': 2},
    },
    mask_prob=mask_prob,
  )


def points_task(**options):
  return classification_task.PointClassification(
    model={
      'num_classes': 3,
      'input_preprocessor': {'num_bands': 2, 'max_resolution': 8.0},
      'encoder': ENCODER | options,
      'decoder': {'kind': 'projection'},
    },
    num_points=5,
  )


@pytest.mark.parametrize(
  'make', [text_task, points_task, audio_video_of, flow_of]
)
def test_dropout_is_drawn_in_training_alone(make):
  tasks = make(), make(dropout_prob=0.5)
  params = random_params(tasks[0])
  rng = np.random.default_rng(0)
  batch = {'mask': np.ones(2, bool)}
  for name, spec in tasks[0].batch_spec().items():
    values = rng.random((2, *spec.shape))
    values *= 255 if spec.dtype == np.uint8 else 1
    batch[name] = values.astype(spec.dtype)
  if 'ids' in batch:
    batch['ids'] += texts.NUM_SPECIAL

  def draws(task):
    loss = lambda params: task.loss(params, {}, batch, context()).terms
    return str(jax.make_jaxpr(loss)(params)).count('random_bits')

  plain, dropping = (draws(task) for task in tasks)
  assert dropping > plain
  assert not encoder.training_options(context(train=False))


def test_hidden_bytes_follow_bert():
  task = text_task(mask_prob=0.5)
  ids = np.random.default_rng(0).integers(6, 262, (400, 24)).astype(np.int32)
  ids[:, 20:] = texts.PAD
  hidden, shown = quick.jit(lambda ids: task._hide(ids, context(400)))(ids)
  assert not hidden[:, 20:].any()
  np.testing.assert_array_equal(shown[~hidden], ids[~hidden])
  assert abs(np.mean(hidden[:, :20]) - 0.5) < 0.02
  masked = np.mean(shown[hidden] == texts.MASK)
  same = np.mean(shown[hidden] == ids[hidden])
  assert abs(masked - 0.8) < 0.02
  assert abs(same - 0.1) < 0.02  # and one of 2560 by chance


def test_unigram_is_the_entropy_of_the_bytes():
  task = text_task(mask_prob=1.0)
  ids = np.full((2, 24), 65 + 6, np.int32)
  ids[:, ::2] = 66 + 6  # one bit per byte
  batch = {'ids': ids, 'mask': np.ones(2, bool)}
  params = random_params(task)
  figures = quick.jit(
    lambda batch: task.loss(params, {}, batch, context(train=False)).metrics
  )(batch)
  total, count = figures['bits_unigram']
  np.testing.assert_allclose(total / count, 1, rtol=1e-5)


def test_blanks_of_a_text_are_filled(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('It is a __st of fill__g blanks.')  # two pieces
  text = predict.TextInput(str(path))
  task = text_task()
  model = loaded.Loaded(task, random_params(task), {}, step=0)
  with outputs.Outputs(tmp_path / 'out', text) as out:
    predict.fill_bytes(model, text, out, k=2)
  filled = (tmp_path / 'out' / 'filled.txt').read_bytes()
  kept = [i for i, c in enumerate(text.text) if c != ord('_')]
  assert len(filled) == len(text.text)
  assert [filled[i] for i in kept] == [text.text[i] for i in kept]
  with open(tmp_path / 'out' / 'candidates.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  best = {int(r['place']): int(r['byte']) for r in rows if r['rank'] == '1'}
  assert best == {i: filled[i] for i in (8, 9, 20, 21)}


def test_command_opens_text_files_for_the_function_that_reads_them(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('_')
  open_ = lambda function: predict_lib._open(
    str(path), 25.0, f'projects.perceiver.predict:{function}'
  )
  assert open_('fill_bytes').text == b'_'
  with pytest.raises(containers.VideoError, match='a text file, not a video'):
    open_('classify')


def test_text_without_blanks_is_refused(tmp_path):
  path = tmp_path / 'whole.txt'
  path.write_text('nothing missing')
  model = loaded.Loaded(text_task(), {}, {}, step=0)
  with pytest.raises(containers.VideoError, match="no blank '_'"):
    predict.fill_bytes(model, predict.TextInput(str(path)), None)
  (tmp_path / 'empty.txt').write_text('')
  with pytest.raises(predict_lib.UsageError, match='empty'):
    predict.TextInput(str(tmp_path / 'empty.txt'))


def test_blank_is_one_byte_of_a_text(moving, tmp_path):
  model = loaded.Loaded(text_task(), {}, {}, step=0)
  with pytest.raises(predict_lib.UsageError, match=r'moving.mp4 .* \.txt file'):
    predict.fill_bytes(model, moving, None)
  path = tmp_path / 'text.txt'
  path.write_text('nothing')
  text = predict.TextInput(str(path))
  with pytest.raises(predict_lib.UsageError, match='blank=__: want one ASCII'):
    predict.fill_bytes(model, text, None, blank='__')


@pytest.mark.parametrize(
  ('classes', 'message'),
  [
    ('kinetics70', "classes=kinetics70 is unknown.*'kinetics700'"),
    ('ucf101', 'classes=ucf101 has 101 classes, the model 3'),
  ],
)
def test_class_list_that_does_not_fit_is_refused(moving, classes, message):
  model = loaded.Loaded(*audio_video(), {}, step=0)
  with pytest.raises(predict_lib.UsageError, match=f'--option={message}'):
    predict.reconstruct(model, moving, None, classes=classes)


def test_classes_of_a_photo_are_listed_by_name(tmp_path):
  path = tmp_path / 'photo.jpg'
  pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  task = classification_task.Classification(
    clip=(1, 8, 8),
    model={
      'num_classes': 1000,
      'input_preprocessor': {
        'prep_type': 'patches',
        'fourier_position_encoding_kwargs': {'num_bands': 2},
      },
      'encoder': ENCODER,
      'decoder': {'trainable_position_encoding_kwargs': {'num_channels': 8}},
    },
  )
  model = loaded.Loaded(task, random_params(task), {}, step=0)
  video = stream.VideoStream(path)
  with outputs.Outputs(tmp_path / 'out', video) as out:
    predict.classify(model, video, out)
  with open(tmp_path / 'out' / 'summary.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  probabilities = np.load(tmp_path / 'out' / 'results.npz')['probabilities'][0]
  best = np.argsort(-probabilities)[:5]
  assert [int(row['class']) for row in rows] == best.tolist()
  names = class_lists.names('imagenet')
  assert [row['name'] for row in rows] == [names[i] for i in best]


@pytest.mark.parametrize(
  'function', [predict.classify, predict.reconstruct, predict.fill_bytes]
)
def test_no_candidates_at_all_are_refused(function):
  with pytest.raises(predict_lib.UsageError, match='--option=k=0: want'):
    function(None, None, None, k=0)
