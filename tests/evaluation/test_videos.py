"""Pictures of predictions: the right pixels in the right places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import examples
from vidscenic.evaluation import videos
from vidscenic.train import sharding

MESH = {'data': -1, 'fsdp': 1, 'model': 1}
T, H, W = examples.CLIP
BAR = 15  # height of a label
BLOCK = 2 * (BAR + H) + 2  # two fields of one example, 2 pixels apart


class Inverted(examples.Linear):
  """Predicts a clip as it is, and its negative, in [-1, 1]."""

  def predict(self, params, model_state, batch, ctx, carry=None):
    clip = batch['video'].astype(jnp.float32) / 127.5 - 1
    clips = {'truth': clip, 'negative': -clip, 'scaled': clip * params['scale']}
    return clips, carry


def make(devices=1, size=13, **kwargs):
  mesh = sharding.make_mesh(MESH, jax.devices()[:devices])
  kwargs = {'fields': ('truth', 'negative'), 'count': 3, **kwargs}
  return videos.Clips(Inverted(), mesh, data=examples.spec(size=size), **kwargs)


def run(evaluator, scale=1.0):
  state = examples.state({'scale': jnp.float32(scale)})
  with jax.set_mesh(evaluator.mesh):
    scalars, media = evaluator.run(state, 5)
  assert scalars == {}
  return media


@pytest.mark.parametrize('devices', [1, 8])
def test_picture_has_a_row_per_field_and_a_column_per_frame(devices):
  picture = run(make(devices))['frames']
  source = examples.Labelled()
  assert picture.shape == (3 * BLOCK + 2 * 6, 2 * W + 2, 3)
  for example in range(3):
    video = source[example]['video']
    for row, want in enumerate((video, 255 - video)):
      top = example * (BLOCK + 6) + row * (BAR + H + 2) + BAR
      for frame in range(T):
        left = frame * (W + 2)
        np.testing.assert_array_equal(
          picture[top : top + H, left : left + W], want[frame]
        )


def test_video_shows_the_same_frames_side_by_side():
  clip = run(make())['clips']
  source = examples.Labelled()
  assert clip.shape == (T, 3 * H + 2 * 2, 2 * W + 2, 3)
  for example in range(3):
    video = source[example]['video']
    top = example * (H + 2)
    got = clip[:, top : top + H]
    np.testing.assert_array_equal(got[:, :, :W], video)
    np.testing.assert_array_equal(got[:, :, W + 2 :], 255 - video)


def test_frames_of_a_picture_are_spread_from_first_to_last():
  picture = run(make(max_columns=1, count=1))['frames']
  assert picture.shape == (BLOCK, W, 3)
  np.testing.assert_array_equal(
    picture[BAR : BAR + H], examples.Labelled()[0]['video'][0]
  )


def test_padding_is_not_drawn():
  media = run(make(size=2, count=3))
  assert media['frames'].shape[0] == 2 * BLOCK + 6
  assert media['clips'].shape[1] == 2 * H + 2
  one = run(make(size=2, count=2))
  np.testing.assert_array_equal(media['frames'], one['frames'])


def test_values_outside_the_range_are_clipped():
  picture = run(make(fields=('scaled',), count=1), scale=1000.0)['frames']
  pixels = picture[BAR : BAR + H, :W]
  want = np.where(examples.Labelled()[0]['video'][0] > 127, 255, 0)
  np.testing.assert_array_equal(pixels, want)
  unit = run(make(fields=('truth',), count=1, value_range='unit'))['frames']
  video = examples.Labelled()[0]['video'][0].astype(np.float64)
  want = np.rint(np.clip(video / 127.5 - 1, 0, 1) * 255)
  np.testing.assert_allclose(unit[BAR : BAR + H, :W], want, atol=1)


def test_unknown_field_is_named_with_those_that_exist():
  with pytest.raises(ValueError, match='guess.*there are.*negative'):
    run(make(fields=('truth', 'guess')))


def test_protocol_says_what_is_shown():
  assert make().protocol() == (
    'pictures of truth, negative; the first 3 examples of Labelled(size=13)'
  )
