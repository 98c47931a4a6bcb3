"""The process that stores staged snapshots and outlives the trainer; knows no torch."""
