"""Label propagation with RVM: from the folders of a data set to figures."""

import functools

import jax
import numpy as np
import pytest
import scipy.io
from PIL import Image

from projects.rvm import evaluation, importer, streaming
from projects.rvm.configs import eval_davis, eval_jhmdb, eval_vip
from tests.projects import rvm_small as small
from vidscenic import config as vc
from vidscenic.evaluation import keypoints, masks, propagation
from vidscenic.tools import load
from vidscenic.train import evaluate, sharding
from vidscenic.train import state as state_lib

FRAMES = 6
SIZE = (16, 32)  # 4 x 4 patches
TASK = small.make_task(model={'decoder': False})
MESH = sharding.make_mesh({'data': 1, 'fsdp': 1, 'model': 1}, jax.devices()[:1])
SETTINGS = propagation.Settings(context=3, radius=2.5, top_k=3)


def picture(t):
  """Noise with a bright block that moves to the right."""
  image = np.random.default_rng(t).integers(0, 80, (24, 48, 3), np.uint8)
  image[6:18, 4 + 4 * t : 20 + 4 * t] += 150
  return image


def object_map(t):
  values = np.zeros((24, 48), np.uint8)
  values[6:18, 4 + 4 * t : 20 + 4 * t] = 2
  values[:4, :10] = 1
  return values


VIDEO = np.stack([picture(t) for t in range(FRAMES)])
OBJECTS = np.stack([object_map(t) for t in range(FRAMES)])


def save(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def davis(tmp_path_factory):
  root = tmp_path_factory.mktemp('davis')
  for t in range(FRAMES):
    # Lossless under the name that the data set has.
    folder = root / 'JPEGImages/480p/bear'
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(t)).save(folder / f'{t:05d}.jpg', format='png')
    save(root / f'Annotations/480p/bear/{t:05d}.png', object_map(t))
  (root / 'ImageSets/2017').mkdir(parents=True)
  (root / 'ImageSets/2017/val.txt').write_text('bear\n')
  return root


@pytest.fixture(scope='module')
def vip(davis, tmp_path_factory):
  root = tmp_path_factory.mktemp('vip')
  (root / 'Images').symlink_to(davis / 'JPEGImages/480p')
  (root / 'Annotations').mkdir()
  (root / 'Annotations/Category_ids').symlink_to(davis / 'Annotations/480p')
  (root / 'lists').mkdir()
  (root / 'lists/val_videos.txt').write_text('bear\n')
  return root


def joints():
  """[2, 15, T], counted from 1; all move to the right."""
  x = 4.0 + 2 * np.arange(15)[:, None] + np.arange(FRAMES)
  y = np.broadcast_to(5.0 + np.arange(15)[:, None], x.shape)
  return np.stack([x, y])


@pytest.fixture(scope='module')
def jhmdb(tmp_path_factory):
  root = tmp_path_factory.mktemp('jhmdb')
  for t in range(FRAMES):
    save(root / f'Rename_Images/wave/clip/{t + 1:05d}.png', picture(t))
  folder = root / 'joint_positions/wave/clip'
  folder.mkdir(parents=True)
  scipy.io.savemat(folder / 'joint_positions.mat', {'pos_img': joints()})
  (root / 'splits').mkdir()
  (root / 'splits/wave_test_split1.txt').write_text('clip.avi 2\n')
  return root


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  """Weights in the published layout."""
  rng = np.random.default_rng(0)
  values = {
    key: 0.3 * rng.standard_normal(shape, np.float32)
    for key, shape in small.file_shapes(**small.FILE).items()
  }
  path = tmp_path_factory.mktemp('weights') / 'small.npz'
  np.savez(path, **values)
  return path


def get_config(module, root, **kwargs):
  """That of a data set, for small weights and pictures."""
  config = module.get_config()
  (spec,) = config.evals.values()
  with config.unlocked():
    config.task.kwargs.model = dict(small.MODEL, scan=True)
    config.task.kwargs.update(size=small.SIZE, mask_ratio=0.7)
    spec.kwargs.data.source_kwargs.root = str(root)
    spec.kwargs.update(size=SIZE, **SETTINGS._asdict(), **kwargs)
  return vc.finalize(config)


@pytest.fixture(scope='module')
def figures(file, davis, vip, jhmdb, tmp_path_factory):
  """{'davis/jf': figure, ...} of an imported run."""
  configs = [
    get_config(eval_davis, davis),
    get_config(eval_vip, vip, controls=('copied',)),
    get_config(eval_jhmdb, jhmdb, controls=('copied',), limit=1),
  ]
  with configs[0].unlocked():
    configs[0].evals.synthetic = vc.eval_spec(
      factory='projects.rvm.evaluation:Objects',
      kwargs={
        'data': vc.data_spec(
          source='vidscenic.data.synthetic:SyntheticVideos',
          source_kwargs={
            'split': 'validation',
            'num_frames': 4,
            'height': 24,
            'width': 32,
            'segmentations': True,
          },
        ),
        'size': SIZE,
        'radius': 2.5,
        'limit': 2,
        'controls': ('copied',),
      },
    )
  configs[0] = vc.finalize(configs[0])
  workdir = tmp_path_factory.mktemp('runs') / 'small'
  result = {}
  for config in configs:  # what --mode=evaluate --weights=FILE does
    load.ensure_run(str(file), workdir, config)
    result |= evaluate.evaluate(config, workdir)
  return result


@pytest.fixture(scope='module')
def features(file):
  """fn(video) -> maps, frame by frame, without stacked blocks."""
  shapes, _ = jax.eval_shape(TASK.init, jax.random.key(0), small.make_batch())
  params = importer.load(file, shapes, encoder_only=True)

  def run(video, reset=FRAMES):
    for t, frame in enumerate(video):
      if t % reset == 0:
        state = streaming.init_state(TASK.model, batch=1, size=SIZE)
      each, state = streaming.step(TASK.model, params, state, frame[None])
      yield streaming.feature_map(TASK.model, each, SIZE)[0]

  return run


def carried(features):
  """Masks of all frames."""
  found = propagation.segment(
    VIDEO, OBJECTS[0], features, size=SIZE, settings=SETTINGS
  )
  return np.stack(list(found))


def test_davis_and_the_state_forgotten_every_four_frames(figures, features):
  for end, reset in (('', FRAMES), ('_reset', 4)):
    found = carried(functools.partial(features, reset=reset))
    want, _ = masks.davis([(found, OBJECTS)])
    for name in ('jf', 'j', 'f'):
      assert figures[f'davis/{name}{end}'] == pytest.approx(want[name])
  # Another model, and in the same range.
  assert 0 < figures['davis/jf_random'] < 1
  ends = '', '_copied', '_random', '_reset'
  assert len({figures[f'davis/jf{end}'] for end in ends}) == 4


def test_davis_by_hand(figures):
  """A block 16 pixels wide moves by 4; frames 1 to 4 count."""
  block = np.mean([12 / 20, 8 / 24, 4 / 28, 0])
  assert figures['davis/j_copied'] == pytest.approx((block + 1) / 2)


def test_vip(figures, features):
  matrix = masks.confusion(carried(features), OBJECTS, num_classes=20)
  assert figures['vip/miou'] == pytest.approx(masks.mean_iou(matrix)[0])


def test_vip_by_hand(figures):
  """All six frames count in one matrix, and of 20 classes those three."""
  block, both = 6 * 12 * 16, 12 * (16 + 12 + 8 + 4)
  background = 6 * (24 * 48 - 40) - block
  moved = block - both  # as many pixels appear as disappear
  ious = (
    1.0,
    both / (block + moved),
    (background - moved) / (background + moved),
  )
  assert figures['vip/miou_copied'] == pytest.approx(np.mean(ious))
  names = {name for name in figures if name.startswith('vip')}
  assert names == {'vip/miou', 'vip/miou_copied'}


def test_jhmdb(figures, features):
  target = (joints() - 1).transpose(2, 1, 0)
  points, found = zip(
    *propagation.follow(
      VIDEO, target[0], features, size=SIZE, settings=SETTINGS
    ),
    strict=True,
  )
  want, _ = keypoints.pck([(np.stack(points), np.stack(found), target)])
  for threshold, value in want.items():
    assert figures[f'jhmdb/pck_{threshold}'] == pytest.approx(value)


def test_jhmdb_by_hand(figures):
  """Joints move by a pixel a frame; a person measures 0.6 |(28, 14)| = 18.8."""
  right = {0.1: 1, 0.2: 3, 0.3: 5, 0.4: 5, 0.5: 5}  # of frames 1 to 5
  for threshold, count in right.items():
    want = pytest.approx(100 * count / 5)
    assert figures[f'jhmdb/pck_{threshold}_copied'] == want


def make(source, root=None, **kwargs):
  options = {} if root is None else {'root': str(root)}
  source_kwargs = options | kwargs.pop('source_kwargs', {})
  built = evaluation.Objects(
    TASK,
    MESH,
    data=vc.data_spec(source=source, source_kwargs=source_kwargs),
    **dict(size=SIZE) | SETTINGS._asdict() | kwargs,
  )
  built.bind('evals.x', {})
  return built


def make_state():
  zero = np.int32(0)
  params = jax.device_put(
    small.make_params(decoder=False), sharding.replicated(MESH)
  )
  return state_lib.TrainState(zero, zero, params, (), {}, None, zero)


def test_synthetic_videos_need_no_download(figures):
  for end in ('', '_copied'):
    assert 0 < figures[f'synthetic/jf{end}'] < 1


def test_the_protocol_is_told(davis):
  objects = make('vidscenic.data.datasets.dense:Davis', davis)
  assert 'J&F by label propagation, features at 16x32' in objects.protocol()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'controls': ('copy',)}, r"controls=\('copy',\)"),
    ({'chunk': 0}, 'chunk=0'),
    ({'size': (16, 30)}, 'must be multiples of the patch'),
  ],
)
def test_unusable_arguments_are_named(options, message, davis):
  with pytest.raises(ValueError, match=message):
    make('vidscenic.data.datasets.dense:Davis', davis, **options)


def test_a_source_without_labels_is_named():
  objects = make('vidscenic.data.synthetic:SyntheticVideos', limit=1)
  with pytest.raises(ValueError, match="evals.x.kwargs.data.*'segmentations'"):
    objects.run(make_state(), 0)
