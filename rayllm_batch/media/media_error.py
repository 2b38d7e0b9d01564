"""Why a row's image, audio or video is not taken."""

from __future__ import annotations


class MediaError(ValueError):
    """One sentence: what was expected, what was given, what to do. It is that row's error, never the run's."""
