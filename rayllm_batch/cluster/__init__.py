"""Ray: connecting to it, what it has room for, and which versions its nodes have."""

from rayllm_batch.cluster.connection import connect

__all__ = ["connect"]
