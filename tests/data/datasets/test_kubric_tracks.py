"""Tracks equal to the closed form, visibility equal to ray casting."""

import numpy as np
import pytest

from tests.data.datasets import kubric_room as room
from vidscenic.data.datasets import kubric_scene, kubric_tracks

WHOLE = (0, 0, room.HEIGHT, room.WIDTH)


@pytest.fixture(scope='module')
def layers():
  scene = kubric_scene.Scene(room.record())
  return kubric_tracks.read_layers(scene, range(room.FRAMES))


def draw(layers, seeds=20, **kwargs):
  """Tracks of several draws together."""
  kwargs = {'box': WHOLE, 'num_tracks': 100} | kwargs
  drawn = [
    kubric_tracks.sample_tracks(layers, np.random.default_rng(seed), **kwargs)
    for seed in range(seeds)
  ]
  return kubric_tracks.Tracks(*map(np.concatenate, zip(*drawn, strict=True)))


def truth(tracks, box=WHOLE):
  """(positions, occluded, whether that is clear) by ray casting.

  Not clear are points with the edge of a segment within 1.5 pixels: there the
  rule looks at pixels, and the closed form at the point.
  """
  t, y, x = tracks.query_points.T.astype(np.float64)
  xy, distance = room.project(room.follow(t.astype(int), x, y))
  frame = np.arange(room.FRAMES)
  hit, segment, _, _ = room.cast(frame, xy[..., 0], xy[..., 1])
  top, left, height, width = box
  inside = (xy >= (left, top)) & (xy <= (left + width, top + height))
  occluded = (distance > hit * (1 + 1e-6)) | ~inside.all(-1)
  clear = np.ones(occluded.shape, bool)
  for dx in (-1.5, 0, 1.5):
    for dy in (-1.5, 0, 1.5):
      near = room.cast(frame, xy[..., 0] + dx, xy[..., 1] + dy)[1]
      clear &= near == segment
  return xy, occluded, clear


def own_segment(tracks):
  t, y, x = tracks.query_points.T.astype(np.float64)
  return room.cast(t.astype(int), x, y)[1]


def test_tracks_equal_the_closed_form(layers):
  tracks = draw(layers)
  want, _, _ = truth(tracks)
  # The 16-bit pictures are good for half a thousandth of a pixel.
  assert np.abs(tracks.target_points - want).max() < 1e-3
  assert set(own_segment(tracks)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
  ('box', 'count'), [(WHOLE, 100), ((20, 30, 50, 60), 10)]
)
def test_occlusion_equals_ray_casting(layers, box, count):
  tracks = draw(layers, box=box, num_tracks=count)
  _, want, clear = truth(tracks, box)
  assert clear.mean() > 0.7
  assert 0.1 < want[clear].mean() < 0.9
  np.testing.assert_array_equal(tracks.occluded[clear], want[clear])


def test_every_way_to_be_hidden_occurs(layers):
  """Or the test above would say little."""
  tracks = draw(layers)
  xy, occluded, clear = truth(tracks)
  frame = np.arange(room.FRAMES)
  other = room.cast(frame, xy[..., 0], xy[..., 1])[1]
  own = own_segment(tracks)[:, None]
  inside = ((xy >= 0) & (xy <= (room.WIDTH, room.HEIGHT))).all(-1)
  hidden = occluded & clear & inside
  assert (hidden & (other != own)).sum() > 50  # something in front
  # The thin plate's other side: less than one part in 100 of the distance.
  assert (hidden & (other == own) & (own == 2)).sum() > 20
  assert (hidden & (other == own) & (own == 1)).sum() > 20
  assert (occluded & ~inside).sum() > 50


def test_queries_are_visible_pixel_centres_on_the_grid(layers):
  box = (20, 30, 50, 60)
  tracks = draw(layers, seeds=1, box=box)
  t, y, x = tracks.query_points.T
  rows = np.arange(len(t))
  assert not tracks.occluded[rows, t.astype(int)].any()
  np.testing.assert_allclose(
    tracks.target_points[rows, t.astype(int)],
    np.stack([x, y], -1),
    atol=1e-3,
  )
  assert y.min() > 20 and y.max() < 70 and x.min() > 30 and x.max() < 90
  for values in (t, y, x):
    steps = (values - values[0]) / 4
    np.testing.assert_array_equal(steps, np.round(steps))


def test_the_grid_begins_anywhere(layers):
  first = [draw(layers, seeds=s + 1).query_points[-1] % 4 for s in range(30)]
  for column in np.array(first).T:
    assert len(np.unique(column)) == 4


def test_queries_of_the_first_frame(layers):
  tracks = draw(layers, seeds=3, first=True)
  assert not tracks.query_points[:, 0].any()


def test_a_draw_depends_on_the_generator_only(layers):
  one, two, other = (
    kubric_tracks.sample_tracks(layers, np.random.default_rng(s), box=WHOLE)
    for s in (1, 1, 2)
  )
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a, b)
  assert (one.query_points != other.query_points).any()


@pytest.mark.parametrize(
  ('counts', 'total', 'want'),
  [
    ([1000, 1000], 100, [50, 50]),
    ([1000, 100], 100, [90, 10]),  # a tenth of the smaller, the rest larger
    ([1000, 0, 200], 100, [80, 0, 20]),
    ([25, 1000], 100, [2, 98]),  # 2.5 is rounded to even
    ([100, 100], 100, [10, 10]),  # not enough
    ([3000, 3000, 3000], 256, [85, 86, 85]),
  ],
)
def test_small_segments_get_their_share_first(counts, total, want):
  assert kubric_tracks.share_out(counts, total) == want


def test_too_few_tracks_are_filled_up_with_the_last_but_one(layers):
  tracks = kubric_tracks.sample_tracks(
    layers, np.random.default_rng(0), box=WHOLE, num_tracks=400
  )
  found = len(np.unique(tracks.query_points, axis=0))
  assert found < 200
  for field in tracks:
    assert len(field) == 400
    np.testing.assert_array_equal(field[300], field[-1])
  # Row -2 of those that were drawn.
  repeats = (tracks.query_points == tracks.query_points[-1]).all(1)
  last = np.flatnonzero(~repeats).max()
  assert repeats[last - 1] and repeats[last + 1 :].all()


def test_no_query_at_all_is_an_error(layers):
  with pytest.raises(ValueError, match=r'too few pixels .* \(0, 0, 4, 4\)'):
    kubric_tracks.sample_tracks(
      layers, np.random.default_rng(0), box=(0, 0, 4, 4)
    )


@pytest.mark.parametrize(
  ('rows', 'believed'),
  [
    (2, True),  # two of four diagonal neighbours differ
    (1, False),  # all differ: a normal map, not the mesh
  ],
)
def test_rough_normals_are_not_believed(layers, rows, believed):
  tracks = draw(layers)
  _, occluded, clear = truth(tracks)
  plate = own_segment(tracks) == 2
  turned = (occluded & clear & tracks.occluded)[plate]
  normals = layers.normals.astype(np.int64)
  striped = np.arange(room.HEIGHT) // rows % 2 == 1
  normals[:, striped] += np.where(normals[:, striped] < 32768, 2500, -2500)
  rough = draw(layers._replace(normals=normals.astype(np.uint16)))
  share = rough.occluded[plate][turned].mean()
  assert turned.sum() > 20
  # Queries at the rim of the plate are rough in either case.
  assert share > 0.75 if believed else share < 0.25


def test_what_is_behind_the_camera_is_hidden(layers):
  """In the last frame the camera looks back over its shoulder."""
  camera = layers.camera
  rotation = camera.rotation.copy()
  rotation[-1] = rotation[-1] * [-1, 1, -1]
  camera = camera._replace(rotation=rotation)
  tracks = draw(layers._replace(camera=camera))
  early = tracks.query_points[:, 0] < room.FRAMES - 1
  assert not draw(layers).occluded[early, -1].all()
  assert tracks.occluded[early, -1].all()


def test_another_segment_hides_whatever_its_depth(layers):
  segments = layers.segments.copy()
  segments[-1][segments[-1] == 3] = 1
  before, after = (
    draw(layers._replace(segments=s), first=True, num_tracks=60)
    for s in (layers.segments, segments)
  )
  own = own_segment(before) == 3
  assert not before.occluded[own, -1].all()
  assert after.occluded[own, -1].all()


def test_a_face_that_looks_away_in_its_own_frame_is_a_fault_of_the_mesh(layers):
  inside_out = layers._replace(normals=65535 - layers.normals)
  tracks = draw(inside_out)
  t = tracks.query_points[:, 0].astype(int)
  assert not tracks.occluded[np.arange(len(t)), t].any()


def test_snapping_keeps_queries_off_edges_of_nearer_things(layers):
  near_edge = kubric_tracks._touches_occluder(layers.distance)
  assert 0.001 < near_edge.mean() < 0.1

  def on_edge(tracks):
    t, y, x = np.floor(tracks.query_points).astype(int).T
    rows = np.arange(len(t))
    # By the track: the query itself may have moved onto the farther side.
    x, y = np.floor(tracks.target_points[rows, t]).astype(int).T
    return near_edge[t, y, x]

  assert on_edge(draw(layers)).sum() > 0
  assert on_edge(draw(layers, snap_to_occluder=True)).sum() == 0


def test_snapping_moves_queries_onto_what_is_farther(layers):
  tracks = draw(layers, seeds=200, snap_to_occluder=True)
  t, y, x = tracks.query_points.T
  rows = np.arange(len(t))
  track = tracks.target_points[rows, t.astype(int)]
  step = np.stack([x, y], -1) - track
  moved = np.abs(step).max(1) > 0.5
  assert 20 < moved.sum() < 0.05 * len(t)
  assert np.abs(step).max() < 1.01

  def distance(x, y):
    return room.cast(t.astype(int), x, y)[0][moved]

  surface = distance(*track.T.astype(np.float64))
  assert (distance(x, y) > surface / 0.95 * 0.999).all()


def test_a_segment_without_an_instance_is_named():
  record = dict(room.record())
  record['instances/quaternions'] = record['instances/quaternions'][:2]
  with pytest.raises(ValueError, match='room: segment 3 has no instance'):
    kubric_tracks.read_layers(kubric_scene.Scene(record), [0])
