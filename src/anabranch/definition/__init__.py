"""What a user writes: tasks, nodes, edges, graphs and options, as values. Nothing runs here."""
