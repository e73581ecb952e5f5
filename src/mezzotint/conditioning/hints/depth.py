"""Where things are near and where far, as Stable Diffusion 2's depth model reads it."""

from __future__ import annotations

from mezzotint.conditioning.canvas import depth_channel
from mezzotint.conditioning.hints.base import Hint

HINT = Hint(
    name="depth",
    about="a depth map, bright where it is near",
    channels=1,
    kind="depth",
    given=lambda picture: picture,
    known=lambda truth: 1.0 / truth.depth,
    reads=depth_channel,
)
