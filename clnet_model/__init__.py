"""CLNet: embeds street views and aerial patches so that a place has the same descriptor from both sides.

Knows images and metric offsets; does not know tiles, stores, Ray Serve or the simulator.
"""
