"""The `clnet` command: wires the rooms together and holds no logic of its own."""
