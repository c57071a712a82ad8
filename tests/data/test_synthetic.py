"""Exactness of the synthetic videos: geometry, labels and determinism."""

import numpy as np
import pytest

from vidscenic.data.synthetic import labels, render, surfaces, textures
from vidscenic.data.synthetic import scene as scene_lib
from vidscenic.data.synthetic import world as world_lib

LEVELS = tuple(scene_lib.DIFFICULTIES)


def make_scene(index, difficulty='medium', **changes):
  level = scene_lib.DIFFICULTIES[difficulty]._replace(**changes)
  rng = np.random.default_rng([5, index])
  return scene_lib.draw_scene(rng, level, num_textures=8)


def make_clip(scene, num_frames=6, height=48, width=64):
  """The exact world, the one used for rendering, and its frames."""
  world = world_lib.make_world(
    scene, num_frames=num_frames, height=height, width=width
  )
  single = world.single()
  frames = render.render(
    single,
    scene,
    textures.bank(0),
    np.random.default_rng(0),
    material=True,
  )
  return world, single, frames


def query_tracks(world, frames, count=200, first=False):
  queries = labels.draw_queries(
    np.random.default_rng(1), frames.surface, count=count, first=first
  )
  return labels.track(world, queries)


def pixel_centres(frames):
  """All pixel centres as queries [T * H * W, 3]."""
  t, y, x = np.indices(frames.surface.shape).reshape(3, -1)
  return np.stack([t, y + 0.5, x + 0.5], axis=-1).astype(np.float32)


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize('difficulty', LEVELS)
def test_tracks_pass_through_their_queries_and_are_visible_there(
  difficulty, first
):
  for index in range(3):
    world, _, frames = make_clip(make_scene(index, difficulty))
    tracks = query_tracks(world, frames, first=first)
    when = tracks.queries[:, 0].astype(int)
    rows = np.arange(len(when))
    there = tracks.points[rows, when]
    assert np.abs(there - tracks.queries[:, [2, 1]]).max() < 1e-4
    assert tracks.visible[rows, when].all()
    if first:
      assert not when.any()


def test_every_segment_is_queried():
  world, _, frames = make_clip(make_scene(0))
  tracks = query_tracks(world, frames)
  # The jitter moves a few queries across an edge, to no fewer segments.
  counts = np.bincount(tracks.surface)
  assert (counts[np.unique(frames.surface)] > 0.1 * 200 / len(counts)).all()


@pytest.mark.parametrize('difficulty', LEVELS)
def test_rendered_maps_equal_ray_casting(difficulty):
  for index in range(3):
    world, _, frames = make_clip(make_scene(index, difficulty))
    when, y, x = pixel_centres(frames).astype(np.float64).T
    hit = world.cast(when.astype(int), x, y)
    np.testing.assert_array_equal(frames.surface.reshape(-1), hit.surface)
    error = frames.depth.reshape(-1) / hit.depth - 1
    assert np.abs(error).max() < 1e-5  # float32


@pytest.mark.parametrize('step', [1, -1])
def test_flow_equals_tracks_started_at_pixel_centres(step):
  for index, difficulty in enumerate(LEVELS):
    world, single, frames = make_clip(
      make_scene(index, difficulty), num_frames=5, height=24, width=32
    )
    tracks = labels.track(world, pixel_centres(frames))
    flow, valid = labels.flow(single, frames, step=step)
    when = tracks.queries[:, 0].astype(int)
    has_target = (when + step >= 0) & (when + step < 5)
    rows = np.flatnonzero(has_target)
    target = tracks.points[rows, when[rows] + step]
    want = target - tracks.queries[rows][:, [2, 1]]
    assert np.abs(flow.reshape(-1, 2)[rows] - want).max() < 1e-3
    seen = tracks.visible[rows, when[rows] + step]
    # float32 decides a point exactly on an edge differently.
    assert (valid.reshape(-1)[rows] == seen).mean() > 0.999
    assert not flow.reshape(-1, 2)[~has_target].any()
    assert not valid.reshape(-1)[~has_target].any()


def test_visible_tracks_lie_on_their_rendered_segment():
  agree = []
  for index in range(4):
    world, _, frames = make_clip(make_scene(index), height=128, width=128)
    tracks = query_tracks(world, frames)
    row, when = np.nonzero(tracks.visible)
    x, y = np.floor(tracks.points[row, when]).astype(int).T
    agree.append(frames.surface[when, y, x] == tracks.surface[row])
  assert np.concatenate(agree).mean() > 0.97  # the rest lies within edge pixels


@pytest.mark.parametrize('difficulty', LEVELS)
def test_scene_and_tracks_scale_with_the_resolution(difficulty):
  scene = make_scene(3, difficulty)
  small, _, frames = make_clip(scene, height=64, width=64)
  large, _, _ = make_clip(scene, height=128, width=128)
  np.testing.assert_array_equal(small.rotation, large.rotation)
  np.testing.assert_array_equal(small.centre, large.centre)
  tracks = query_tracks(small, frames)
  scaled = labels.track(large, tracks.queries * [1, 2, 2])
  np.testing.assert_array_equal(tracks.surface, scaled.surface)
  near = np.abs(tracks.points) < 1000  # float32 beyond
  error = (2 * tracks.points - scaled.points)[near]
  assert np.abs(error).max() < 1e-3
  assert (tracks.visible == scaled.visible).all()


def test_clips_of_different_length_show_the_same_motion():
  scene = make_scene(4)
  short, _, _ = make_clip(scene, num_frames=3, height=8, width=8)
  long, _, _ = make_clip(scene, num_frames=9, height=8, width=8)
  np.testing.assert_allclose(short.centre, long.centre[::4], atol=1e-12)
  for a, b in zip(short.objects, long.objects, strict=True):
    np.testing.assert_allclose(a.forward, b.forward[::4], atol=1e-12)


def test_colour_under_a_visible_track_stays_the_same_without_light():
  differences, shifted = [], []
  for index in range(4):
    scene = make_scene(index, light=0.0)
    world, _, frames = make_clip(scene, num_frames=8, height=128, width=128)
    tracks = query_tracks(world, frames)
    inside = far_from_edges(frames.surface, 2)
    differences.append(colour_changes(tracks, frames, inside, 0))
    shifted.append(colour_changes(tracks, frames, inside, 3))
  assert np.median(np.concatenate(differences)) < 2  # of 255
  assert np.median(np.concatenate(shifted)) > 6


def far_from_edges(surface, distance):
  """True where all pixels within `distance` belong to the same segment."""
  same = np.zeros(surface.shape, bool)
  window = slice(distance, -distance)
  centre = surface[:, window, window]
  views = np.lib.stride_tricks.sliding_window_view(
    surface, (2 * distance + 1,) * 2, axis=(1, 2)
  )
  same[:, window, window] = (views == centre[..., None, None]).all((-1, -2))
  return same


def colour_changes(tracks, frames, inside, shift):
  """Absolute colour differences between query and later, shifted, points."""
  row, when = np.nonzero(tracks.visible)
  start = tracks.queries[:, 0].astype(int)
  origin = tracks.queries[:, [2, 1]]
  points = tracks.points[row, when] + [shift, 0]
  x, y = np.clip(np.floor(points), 0, 127).astype(int).T
  x0, y0 = np.floor(origin).astype(int).T
  kept = inside[when, y, x] & inside[start, y0, x0][row] & (when != start[row])
  row, when, points = row[kept], when[kept], points[kept]
  colour = bilinear(frames.video, when, points)
  return np.abs(colour - bilinear(frames.video, start, origin)[row]).ravel()


def bilinear(video, when, points):
  points = np.clip(points - 0.5, 0, np.array(video.shape[2:0:-1]) - 1.001)
  low = np.floor(points).astype(int)
  (wx, wy), (x, y) = (points - low).T[..., None], low.T
  video = video.astype(np.float32)
  top = (1 - wx) * video[when, y, x] + wx * video[when, y, x + 1]
  y = y + 1
  bottom = (1 - wx) * video[when, y, x] + wx * video[when, y, x + 1]
  return (1 - wy) * top + wy * bottom


def test_boxes_bound_the_visible_pixels():
  _, _, frames = make_clip(make_scene(1, 'hard'))
  boxes, mask, areas = labels.boxes(frames.surface)
  for t, segments in enumerate(frames.surface):
    for k in range(scene_lib.MAX_OBJECTS):
      y, x = np.nonzero(segments == k + 1)
      assert areas[t, k] == len(y)
      assert mask[t, k] == (len(y) > 0)
      if len(y):
        want = [y.min() / 48, x.min() / 64, (y.max() + 1) / 48]
        want.append((x.max() + 1) / 64)
        np.testing.assert_allclose(boxes[t, k], want, atol=1e-6)
      else:
        assert not boxes[t, k].any()


def test_objects_stay_within_their_bounds():
  """No pixel of an object lies outside the rectangle that is searched."""
  for index in range(6):
    scene = make_scene(index, 'hard')
    world, single, _ = make_clip(scene, num_frames=5)
    y, x = np.indices((48, 64)).reshape(2, 1, -1) + 0.5
    frames = np.arange(5)[:, None]
    for thing in world.objects:
      rays = surfaces.apply_rays(thing.rays, frames, *world.directions(x, y))
      depth, inside, _ = thing.cast(frames, rays)
      covered = thing.coverage(inside, depth) > 0
      covered &= (depth < 100) & thing.present[:, None]
      x0, y0, x1, y1 = thing.rect.T[..., None]
      searched = (x > x0) & (x < x1) & (y > y0) & (y < y1)
      assert not (covered & ~searched).any()


def bare_motion(seed, action):
  """Object 0's motion with everything else but the action taken away."""
  still = scene_lib.Smooth(0.0, 0.0, (0.0,) * 3, (0.0,) * 3)
  return (
    make_scene(seed)
    .things[0]
    .motion._replace(
      action=action,
      drift=(still,) * 3,
      tilt=0.0,
      tilt_drift=still,
      roll_drift=still,
      origin=(0.0,) * 3,
    )
  )


@pytest.mark.parametrize('action', scene_lib.ACTIONS)
def test_object_moves_as_its_label_says(action):
  for seed in range(20):
    motion = bare_motion(seed, action)
    rotation, centre = scene_lib.object_pose(motion, np.linspace(0, 1, 9))
    moved = (centre[-1] - centre[0]) / motion.unit
    nearer = np.linalg.norm(centre[0]) / np.linalg.norm(centre[-1]) - 1
    # Where the card's first axis turns, and the side towards the camera goes.
    turned = np.cross(rotation[4, :, 0], rotation[5, :, 0])[2]
    swung = rotation[4, 0, 2] - rotation[5, 0, 2]
    paths = np.diff(centre, axis=0)
    returns = (paths.min(0) < 0) & (paths.max(0) > 0)
    evidence = {
      'right': moved[0],
      'left': -moved[0],
      'up': -moved[1],
      'down': moved[1],
      'approach': nearer,
      'recede': -nearer,
      'clockwise': turned,
      'counterclockwise': -turned,
      'spin_right': swung,
      'spin_left': -swung,
      'shake_horizontal': returns[0],
      'shake_vertical': returns[1],
    }
    assert evidence[action] > 0.05


def test_middle_frame_does_not_tell_the_action():
  poses = [
    scene_lib.object_pose(bare_motion(2, action), np.array([0.5]))
    for action in scene_lib.ACTIONS
    if not action.startswith('shake')  # these have a random phase instead
  ]
  for rotation, centre in poses:
    np.testing.assert_array_equal(rotation, poses[0][0])
    np.testing.assert_array_equal(centre, poses[0][1])


def test_labels_are_balanced():
  counts = np.bincount([make_scene(i).label for i in range(600)], minlength=12)
  assert counts.min() > 25 and counts.max() < 80  # 50 expected, 7 deviation


def test_most_objects_follow_the_label():
  scenes = [make_scene(i) for i in range(200)]
  wanted = [
    thing.motion.action == scene_lib.ACTIONS[scene.label]
    for scene in scenes
    for thing in scene.things
  ]
  assert 0.8 < np.mean(wanted) < 0.95  # 1 in 5 of the others is free
  assert all(
    scene.things[0].motion.action == scene_lib.ACTIONS[scene.label]
    for scene in scenes
  )


def test_scenes_use_the_raw_stream_only():
  class OnlyRandom:
    def __init__(self, seed):
      self.random = np.random.default_rng(seed).random

  level = scene_lib.DIFFICULTIES['hard']
  want = scene_lib.draw_scene(np.random.default_rng(8), level, num_textures=40)
  assert scene_lib.draw_scene(OnlyRandom(8), level, num_textures=40) == want


def test_sound_comes_from_the_side_of_the_object():
  for index in range(8):
    scene = make_scene(index, objects=(1, 1))
    world, _, _ = make_clip(scene, num_frames=12, height=16, width=16)
    audio = labels.sound(scene, world, np.random.default_rng(0))
    assert audio.shape == (16000, 2)
    assert np.abs(audio).max() == pytest.approx(0.8)
    x, _, z = world.objects[0].position.T
    if (x / z).min() > 0.1:
      assert (audio[:, 1] ** 2).sum() > (audio[:, 0] ** 2).sum()
    if (x / z).max() < -0.1:
      assert (audio[:, 0] ** 2).sum() > (audio[:, 1] ** 2).sum()
