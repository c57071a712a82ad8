"""Label propagation with RVM: from the folders of a data set to figures."""

import jax
import numpy as np
import pytest
import scipy.io
from PIL import Image

from projects.rvm import evaluation, streaming
from tests.projects import rvm_small as small
from vidscenic import config as vc
from vidscenic.evaluation import keypoints, masks, propagation
from vidscenic.train import sharding
from vidscenic.train import state as state_lib

FRAMES = 6
SIZE = (16, 32)  # 4 x 4 patches
TASK = small.make_task(model={'decoder': False})
MESH = sharding.make_mesh({'data': 1, 'fsdp': 1, 'model': 1}, jax.devices()[:1])
SETTINGS = dict(context=3, radius=2.5, top_k=3)


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


def make(kind, source, root=None, **kwargs):
  options = {} if root is None else {'root': str(root)}
  source_kwargs = options | kwargs.pop('source_kwargs', {})
  built = kind(
    TASK,
    MESH,
    data=vc.data_spec(source=source, source_kwargs=source_kwargs),
    **dict(size=SIZE) | SETTINGS | kwargs,
  )
  built.bind('evals.x', {})
  return built


def make_state():
  zero = np.int32(0)
  params = jax.device_put(
    small.make_params(decoder=False), sharding.replicated(MESH)
  )
  return state_lib.TrainState(zero, zero, params, (), {}, None, zero)


def features(video, reset=FRAMES):
  """Feature maps frame by frame."""
  for t, frame in enumerate(video):
    if t % reset == 0:
      state = streaming.init_state(TASK.model, batch=1, size=SIZE)
    each, state = streaming.step(
      TASK.model, small.make_params(decoder=False), state, frame[None]
    )
    yield streaming.feature_map(TASK.model, each, SIZE)[0]


def test_davis_and_its_controls(davis):
  dense = 'vidscenic.data.datasets.dense:Davis'
  figures, _ = make(evaluation.Objects, dense, davis).run(make_state(), 0)
  video = np.stack([picture(t) for t in range(FRAMES)])
  target = np.stack([object_map(t) for t in range(FRAMES)])
  settings = propagation.Settings(**SETTINGS)
  for end, reset in (('', FRAMES), ('_reset', 4)):
    carried = propagation.segment(
      video,
      target[0],
      lambda frames, reset=reset: features(frames, reset),
      size=SIZE,
      settings=settings,
    )
    want, _ = masks.davis([(np.stack(list(carried)), target)])
    for name in ('jf', 'j', 'f'):
      assert figures[f'{name}{end}'] == pytest.approx(want[name], abs=1e-6)
  copied, _ = masks.davis([(np.stack([target[0]] * FRAMES), target)])
  assert figures['jf_copied'] == copied['jf']
  # Another model, and in the same range.
  assert figures['jf_random'] != figures['jf']
  assert len({figures[f'jf{e}'] for e in ('', '_copied', '_reset')}) == 3


def test_vip_counts_all_frames_in_one_matrix(vip):
  source = 'vidscenic.data.datasets.dense:Vip'
  part = make(evaluation.Parts, source, vip, controls=('copied',))
  figures, _ = part.run(make_state(), 0)
  target = np.stack([object_map(t) for t in range(FRAMES)])
  matrix = masks.confusion(
    np.stack([target[0]] * FRAMES), target, num_classes=20
  )
  assert figures['miou_copied'] == masks.mean_iou(matrix)[0]
  assert set(figures) == {'miou', 'miou_copied'}
  assert 0 < figures['miou'] < 1


def test_jhmdb_joints(jhmdb):
  source = 'vidscenic.data.datasets.jhmdb:Jhmdb'
  points = make(evaluation.Keypoints, source, jhmdb, controls=('copied',))
  figures, _ = points.run(make_state(), 0)
  target = (joints() - 1).transpose(2, 1, 0)
  still = np.stack([target[0]] * FRAMES)
  want, _ = keypoints.pck([(still, np.ones(still.shape[:2], bool), target)])
  for threshold, value in want.items():
    assert figures[f'pck_{threshold}_copied'] == pytest.approx(value)
    assert 0 <= figures[f'pck_{threshold}'] <= 100


def test_synthetic_videos_need_no_download():
  objects = make(
    evaluation.Objects,
    'vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': 'validation',
      'num_frames': 4,
      'height': 24,
      'width': 32,
      'segmentations': True,
    },
    limit=2,
    controls=('copied',),
    published=(('RVM-L', 66.0),),
  )
  figures, _ = objects.run(make_state(), 0)
  assert 0 < figures['jf_copied'] < 1
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
    make(
      evaluation.Objects,
      'vidscenic.data.datasets.dense:Davis',
      davis,
      **options,
    )


def test_a_source_without_labels_is_named():
  objects = make(
    evaluation.Objects, 'vidscenic.data.synthetic:SyntheticVideos', limit=1
  )
  with pytest.raises(ValueError, match="evals.x.kwargs.data.*'segmentations'"):
    objects.run(make_state(), 0)
