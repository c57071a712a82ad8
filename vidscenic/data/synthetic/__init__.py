"""Synthetic videos with exact ground truth, addressed by index.

Textured, partly bending cards and ellipsoids move in a textured room seen by a
moving pinhole camera. Every quantity has a closed form, so tracks, flow, depth
and masks are exact, and example i of a seed and split is a pure function of
its index: nothing is stored. Needs numpy only.

  textures    periodic colour textures and their mip-mapped bank
  scene       random draws, camera and motion
  surfaces    cards, ellipsoids and the room: rays <-> material coordinates
  placement   builds the surfaces of a scene
  world       a scene at T frames of H x W: ray casting and visibility
  render      frames, depth, segmentation
  labels      tracks, flow, boxes, sound
  source      the random-access data source
"""

from vidscenic.data.synthetic.scene import ACTIONS as ACTIONS
from vidscenic.data.synthetic.scene import DIFFICULTIES as DIFFICULTIES
from vidscenic.data.synthetic.scene import SHAPES as SHAPES
from vidscenic.data.synthetic.scene import Difficulty as Difficulty
from vidscenic.data.synthetic.source import SyntheticVideos as SyntheticVideos
