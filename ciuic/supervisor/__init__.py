"""A command that is run again until it is done, with its history; and the same command interrupted and compared."""
