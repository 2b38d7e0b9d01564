"""What Ray Data is asked for a pool of replicas."""

from __future__ import annotations

import pytest
import ray.data

from rayllm_batch.run import pipeline


@pytest.mark.parametrize("in_flight", [2, 3, 7, 8, 24, 64])
def test_a_pool_that_may_grow_can_be_as_full_as_it_takes_to_grow(in_flight: int) -> None:
    """Ray Data says in a log of its own that it will not, and does not: `will not allow it to scale up`."""
    full = ray.data.DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold
    grows = pipeline._pool((1, 3), in_flight, 1, {"num_cpus": 1.0})["compute"]
    assert (grows.min_size, grows.max_size) == (1, 3)
    assert grows.max_tasks_in_flight_per_actor / in_flight >= full > 1


def test_a_pool_of_a_fixed_size_has_a_short_queue() -> None:
    fixed = pipeline._pool((2, 2), 24, 6, {"num_cpus": 1.0})
    assert fixed["compute"].max_tasks_in_flight_per_actor == 30 and fixed["num_cpus"] == 1.0
