"""The engines: vLLM, and echo, which stands in for it in tests of scale and faults."""
