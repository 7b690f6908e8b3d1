"""Aerial patches: the ground grid they lie on, and reading their pixels from any orthophoto."""
