"""Batch jobs on Ray Data: building regions today; bulk relocalization, export and import grow beside it."""
