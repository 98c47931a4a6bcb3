"""Packs, index, ref logs, locks, gc, fsck: everything on disk. Knows neither torch nor the terminal."""
