"""Measurements of this library against the bare engine. Nothing in rayllm_batch imports it."""
