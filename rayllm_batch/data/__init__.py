"""Rows: read from files, as columns that keep every value, each known by its content or its id."""
