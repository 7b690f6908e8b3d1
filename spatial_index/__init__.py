"""The spatial index: patches searched by vector inside a prior; the only room that knows Qdrant."""
