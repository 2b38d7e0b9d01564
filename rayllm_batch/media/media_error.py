"""Why a row's image, audio or video is not taken."""

from __future__ import annotations


class MediaError(ValueError):
    """One sentence: what was expected, what was given, what to do. It is that row's error, never the run's."""


class NotAllowed(MediaError):
    """By the workload's rules, and not for want of a medium: those of other rows may be refused alike."""
