"""Questions about what happened: revisions, the graph, statistics, numeric diff."""
