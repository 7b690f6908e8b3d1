"""The online road: a street image and what is known about it in, ranked positions with honest radii out."""
