"""Helpers of the walkthrough that talk to a person. The package `rayllm_batch` does not use them."""
