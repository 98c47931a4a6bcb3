"""The object model and its one canonical encoding: ids, trees, snapshots, the state tree. Pure: no files, no torch."""
