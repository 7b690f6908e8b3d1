"""Renders a city that never existed: its orthophoto, its height model and street images at true poses.

Knows nothing of tiling, models or search: it stands in for the imagery that an operator would bring.
"""
