"""Generated from `proto/` by `python infra/protoc.py`; never edited by hand."""
