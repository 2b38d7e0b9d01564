"""Numbers, typed: what is known of replicas and rows, over time and in the end."""
